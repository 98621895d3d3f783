"""One netlink socket per thread and namespace of the host, opened when first used."""

from __future__ import annotations

import errno
import threading
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["NetlinkError", "describe", "is_absent", "netlink"]

_local = threading.local()


def netlink() -> Any:
    """The calling thread's socket in the agent's own namespace."""
    socket = getattr(_local, "socket", None)
    if socket is None:
        socket = _local.socket = IPRoute()
    return socket


def is_absent(error: NetlinkError) -> bool:
    """True when the error says that the thing to remove or look at is not there."""
    return error.code in (errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL)


def describe(error: NetlinkError) -> str:
    """Text of the error with its symbol, such as ``File exists (EEXIST)``."""
    name = errno.errorcode.get(error.code, str(error.code))
    return f"{error.args[1] if len(error.args) > 1 else error} ({name})"
