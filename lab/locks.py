"""Locks that vanish with their holder and leave no file: names in the abstract unix socket namespace."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

from lab.errors import LabError


@contextlib.contextmanager
def held(name: str, *, wait: float = 0, busy: str, hint: str = "") -> Iterator[None]:
    """Hold the lock ``name`` on this machine. ``LabError(busy)`` if it stays taken for ``wait`` s."""
    deadline = time.monotonic() + wait
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        while True:
            try:
                lock.bind(f"\0podwire-{name}")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() >= deadline:
                    raise LabError(busy, hint) from error
            time.sleep(0.1)
        yield
