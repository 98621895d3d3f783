"""Read and write /proc/sys of the calling thread's network namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

_ROOT = Path("/proc/sys")


def read(name: str) -> str | None:
    """Value of ``name`` (slashes, as in ``net/ipv4/ip_forward``), or None when the kernel has no such
    setting."""
    try:
        return (_ROOT / name).read_text(encoding="ascii").strip()
    except (FileNotFoundError, OSError):
        return None


def write(name: str, value: str) -> None:
    """Raises OSError when the setting is missing or refused."""
    (_ROOT / name).write_text(value, encoding="ascii")


class SysctlTable:
    """The reconciler's view: only the settings that it was asked to write are ever read."""

    name = "sysctls"

    def __init__(self) -> None:
        self._known: set[str] = set()

    def read(self) -> dict[str, str]:
        values = {name: read(name) for name in self._known}
        self._known = {name for name, value in values.items() if value is not None}
        return {name: value for name, value in values.items() if value is not None}

    def upsert(self, entries: Mapping[str, str]) -> dict[str, str]:
        failures: dict[str, str] = {}
        for name, value in entries.items():
            try:
                # Writing forwarding resets other settings of the kernel, even when the value stays: look
                # first.
                if read(name) != value:
                    write(name, value)
                self._known.add(name)
            except OSError as error:
                failures[name] = f"sysctl {name.replace('/', '.')} = {value}: {error.strerror}"
        return failures

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        """A setting is not taken back: its device is gone, or other software may rely on it by now."""
        self._known.difference_update(keys)
        return {}
