"""Wait for a file to be written or replaced (inotify; the standard library has no binding)."""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path

_CLOSE_WRITE, _MOVED_TO, _CREATE, _DELETE, _MOVED_FROM = 0x8, 0x80, 0x100, 0x200, 0x40
_MASK = _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE | _MOVED_FROM
_BUFFER = 1 << 16


class FileWatch:
    """Changes of one file, watched through its directory, because editors and rollouts replace files."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the directory cannot be watched."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(path.parent), _MASK) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), str(path.parent))
        self._name = os.fsencode(path.name)

    def wait(self, seconds: float) -> bool:
        """Did anything happen to the file, now or within ``seconds``?"""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        return bool(ready) and self._name in self._names()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _names(self) -> set[bytes]:
        """Names that the pending events are about."""
        data, names = os.read(self._fd, _BUFFER), set()
        while len(data) >= 16:
            size = int.from_bytes(data[12:16], "little")
            names.add(data[16 : 16 + size].rstrip(b"\0"))
            data = data[16 + size :]
        return names
