"""Network namespaces: enter one with the calling thread, create and remove named ones.

Only the calling thread moves, so these functions belong into worker threads, never into the event loop's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from podwire.net.values import NetnsId

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
NETNS_DIRECTORY = Path("/run/netns")
_NSFS_MAGIC = 0x6E736673

_libc = ctypes.CDLL(None, use_errno=True)


class NetnsError(Exception):
    """A namespace cannot be opened, entered or created. The message names it and the reason."""


def _check(result: int, what: str) -> None:
    if result != 0:
        raise NetnsError(f"{what}: {os.strerror(ctypes.get_errno())}")


def open_netns(path: str) -> int:
    """Open the namespace at ``path``; the caller closes the descriptor.

    Raises NetnsError when it does not exist or is something else: following a wrong path would configure the
    host."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetnsError(f"network namespace {path}: {error.strerror}") from error
    if _filesystem_type(fd) != _NSFS_MAGIC:
        os.close(fd)
        raise NetnsError(f"{path} is not a network namespace")
    return fd


def netns_id(fd: int) -> NetnsId:
    status = os.fstat(fd)
    return NetnsId(status.st_dev, status.st_ino)


def identify(path: str) -> NetnsId | None:
    """Identity of the namespace at ``path``, or None when there is none."""
    try:
        fd = open_netns(path)
    except NetnsError:
        return None
    try:
        return netns_id(fd)
    finally:
        os.close(fd)


_SO_NETNS_COOKIE = 71


def cookie() -> int | None:
    """The caller's namespace as BPF programs know it; None where the kernel does not tell (before 5.14)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return None
            raise


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close the descriptor when the block ends."""
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def entered(fd: int) -> Iterator[None]:
    """Run the block with the calling thread in namespace ``fd``.

    A thread that cannot come back is of no use to anyone: that ends the process, and the service manager
    starts a new one."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNET), "enter network namespace")
        try:
            yield
        finally:
            if _libc.setns(own, CLONE_NEWNET) != 0:
                os.abort()
    finally:
        os.close(own)


def create(name: str) -> Path:
    """Create the named namespace (as ``ip netns add`` does); one that exists is kept. Returns its path."""
    path = NETNS_DIRECTORY / name
    if identify(str(path)) is not None:
        return path
    NETNS_DIRECTORY.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o444)
    failure: list[Exception] = []

    def bind_new() -> None:
        try:
            _check(_libc.unshare(CLONE_NEWNET), "create a network namespace")
            source = b"/proc/thread-self/ns/net"
            _check(_libc.mount(source, os.fsencode(path), b"none", MS_BIND, None), f"mount {path}")
        except NetnsError as error:
            failure.append(error)

    # The thread that left the host's namespace ends here and is never used again.
    thread = threading.Thread(target=bind_new, name="netns-create")
    thread.start()
    thread.join()
    if failure:
        path.unlink(missing_ok=True)
        raise failure[0]
    return path


def remove(name: str) -> None:
    """Remove a named namespace; one that is not there is fine."""
    path = NETNS_DIRECTORY / name
    _libc.umount2(os.fsencode(path), MNT_DETACH)
    path.unlink(missing_ok=True)


class _StatFs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_char * 256))


def _filesystem_type(fd: int) -> int:
    buffer = _StatFs()
    _check(_libc.fstatfs(fd, ctypes.byref(buffer)), "fstatfs")
    return int(buffer.f_type)
