"""File locks between processes and threads (flock: gone when its holder dies)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import DatapathError

WAIT = 60.0
_POLL = 0.005


@contextlib.contextmanager
def exclusive(path: Path, wait: float = WAIT) -> Iterator[None]:
    """Hold ``path`` alone; raises DatapathError naming the holder after ``wait`` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise DatapathError(
                    f"process {holder} has been changing the datapath for more than {wait:.0f} s ({path})",
                    "See what it does (ps -p PID) and try again; the lock ends with it.",
                ) from None
            time.sleep(_POLL)
