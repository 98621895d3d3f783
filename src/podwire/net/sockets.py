"""End connected UDP sockets whose other end is gone (SOCK_DESTROY over NETLINK_SOCK_DIAG).

A connected UDP socket keeps sending to the backend that it was connected to, and nobody tells it that nobody
is there. Destroyed, its owner gets ECONNABORTED and connects again. pyroute2 knows the messages but not the
errors of this netlink family, so they are packed here.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from podwire.net import netns

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_HEADER = struct.Struct("=IHHII")
_REQUEST_HEAD = struct.Struct("=BBBBI")  # family, protocol, extensions, padding, states
_ID = struct.Struct("!HH16s16s")  # source port, destination port, source, destination
_ID_SIZE, _ID_OFFSET = 48, 4
_COOKIE = struct.Struct("=Q")
_ESTABLISHED = 1 << 1
_TIMEOUT = 10.0
_BUFFER = 1 << 16
_CLOSED_MEANWHILE = {errno.ENOENT, errno.ESTALE}
_CANNOT = {
    errno.EOPNOTSUPP: "the kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY)",
    errno.EPROTONOSUPPORT: "the kernel cannot list sockets (CONFIG_INET_DIAG, module inet_diag)",
    errno.ENOENT: "the kernel cannot list UDP sockets (CONFIG_INET_UDP_DIAG, module udp_diag)",
    errno.EPERM: "this process may not destroy sockets (CAP_NET_ADMIN)",
}

Target = tuple[str, int]
"""IPv4 address and port of the other end."""


@dataclass(frozen=True, slots=True)
class UdpSocket:
    """A connected UDP socket. ``cookie`` is the number that BPF programs know it by."""

    cookie: int
    remote: Target
    family: int
    id: bytes
    """The kernel's own description, given back to it."""


@dataclass(frozen=True, slots=True)
class Destroyed:
    """How many sockets were ended; ``reason`` says why not all could be, empty when all were."""

    sockets: int
    reason: str = ""


def destroy_udp(
    targets: Collection[Target],
    *,
    netns_fd: int | None = None,
    select: Callable[[UdpSocket], bool] = lambda found: True,
) -> Destroyed:
    """End the UDP sockets that are connected to one of ``targets`` and that ``select`` agrees to.

    Looks in the network namespace behind ``netns_fd`` (None: the caller's), at IPv6 sockets with mapped
    addresses, too. Blocks for a few milliseconds, and moves the calling thread for a moment: call it in a
    worker thread. A kernel that cannot do it is a result; OSError is raised for what nobody expects,
    NetnsError for a namespace that cannot be entered.
    """
    count, wanted = 0, set(targets)
    with _connection(netns_fd) as kernel:
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                for found in list(_connected(kernel, family)):
                    if found.remote in wanted and select(found):
                        count += _destroy(kernel, found)
        except OSError as error:
            if error.errno in _CANNOT:
                return Destroyed(count, _CANNOT[error.errno])
            raise
    return Destroyed(count)


@contextlib.contextmanager
def _connection(netns_fd: int | None) -> Iterator[socket.socket]:
    with contextlib.nullcontext() if netns_fd is None else netns.entered(netns_fd):
        try:
            kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        except OSError as error:
            raise OSError(error.errno, f"netlink for sockets: {os.strerror(error.errno or 0)}") from error
    with kernel:
        kernel.settimeout(_TIMEOUT)
        kernel.bind((0, 0))
        yield kernel


def _connected(kernel: socket.socket, family: int) -> Iterator[UdpSocket]:
    """The connected UDP sockets of a family that talk IPv4."""
    request = _REQUEST_HEAD.pack(family, socket.IPPROTO_UDP, 0, 0, _ESTABLISHED) + bytes(_ID_SIZE)
    for body in _ask(kernel, _BY_FAMILY, _REQUEST | _DUMP, request):
        description = body[_ID_OFFSET : _ID_OFFSET + _ID_SIZE]
        _, port, _, remote = _ID.unpack_from(description)
        address = _ipv4(family, remote)
        if address:
            (cookie,) = _COOKIE.unpack_from(description, _ID_SIZE - _COOKIE.size)
            yield UdpSocket(cookie, (address, port), family, description)


def _ipv4(family: int, packed: bytes) -> str:
    if family == socket.AF_INET:
        return str(ipaddress.IPv4Address(packed[:4]))
    mapped = ipaddress.IPv6Address(packed).ipv4_mapped
    return str(mapped) if mapped else ""


def _destroy(kernel: socket.socket, found: UdpSocket) -> int:
    """End one; 0 when its owner was faster."""
    request = _REQUEST_HEAD.pack(found.family, socket.IPPROTO_UDP, 0, 0, _ESTABLISHED) + found.id
    try:
        for _ in _ask(kernel, _DESTROY, _REQUEST | _ACK, request):
            pass
    except OSError as error:
        if error.errno in _CLOSED_MEANWHILE:
            return 0
        raise
    return 1


def _ask(kernel: socket.socket, kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
    """Send a request; bodies of the answers, until the kernel is done. Raises OSError for a refusal."""
    kernel.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags, 0, 0) + payload)
    while True:
        data = kernel.recv(_BUFFER)
        while data:
            length, answer, _, _, _ = _HEADER.unpack_from(data)
            body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
            if answer in (_NLMSG_DONE, _NLMSG_ERROR):
                _raise_for(body)
                return
            yield body


def _raise_for(body: bytes) -> None:
    (number,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
    if number < 0:
        raise OSError(-number, os.strerror(-number))
