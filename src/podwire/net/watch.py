"""Notice when this host's devices, addresses or routes change under us.

A device that goes down takes its routes with it, and a changed route makes cached next hops wrong: the agent
then compares everything again at once instead of at its next round. Changes by podwire itself are left
out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

from podwire.net.routes import PROTOCOL

_GROUPS = 0x1 | 0x10 | 0x40  # links, IPv4 addresses, IPv4 routes
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHi")
_ROUTE = struct.Struct("=BBBBBBBB")
_LINKS = (16, 17)
_ADDRESSES = (20, 21)
_ROUTES = (24, 25)
_KERNEL = 2
"""Protocol of routes that come with addresses and devices: their own messages tell as much."""

Interesting = Callable[[int], bool]
"""Does it matter that the interface with this index changed?"""


def changes(data: bytes, interesting: Interesting) -> bool:
    """Do these netlink messages tell of something that is not our own doing? Pure."""
    return any(_matters(kind, body, interesting) for kind, body in _messages(data))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _matters(kind: int, body: bytes, interesting: Interesting) -> bool:
    if kind in _LINKS and len(body) >= _LINK.size:
        return interesting(_LINK.unpack_from(body)[2])
    if kind in _ADDRESSES:
        return True  # pods' devices have none on the host's side
    if kind in _ROUTES and len(body) >= _ROUTE.size:
        return _ROUTE.unpack_from(body)[5] not in (PROTOCOL, _KERNEL)
    return False


class HostWatch:
    """Calls ``on_change`` in the event loop. Messages that were lost count as a change."""

    def __init__(self, interesting: Interesting, on_change: Callable[[], None]) -> None:
        self._interesting = interesting
        self._on_change = on_change
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        changed = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = self._socket.recv(65536)
                except BlockingIOError:
                    raise
                except OSError:  # ENOBUFS: more happened than fits
                    changed = True
                    break
                changed = changed or changes(data, self._interesting)
        if changed:
            self._on_change()
