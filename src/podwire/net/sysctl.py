"""Read and write /proc/sys of the calling thread's network namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

_ROOT = Path("/proc/sys")
IPV6 = _ROOT / "net/ipv6"


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


def set_value(name: str, value: str) -> bool:
    """Write a value unless it is set already: writing forwarding resets other settings even when it stays.

    Returns False when it is an IPv6 setting and the kernel runs without IPv6. Raises OSError."""
    if read(name) == value:
        return True
    try:
        write(name, value)
    except FileNotFoundError:
        if name.startswith("net/ipv6/") and not IPV6.exists():
            return False
        raise
    return True


class SysctlTable:
    """The reconciler's view: only the settings that it was asked to write are ever read."""

    name = "sysctls"

    def __init__(self) -> None:
        self._known: set[str] = set()
        # IPv6 settings of a kernel without IPv6: they count as being what they should be.
        self._meaningless: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        values = {name: read(name) for name in self._known}
        self._known = {name for name, value in values.items() if value is not None}
        found = {name: value for name, value in values.items() if value is not None}
        return {**self._meaningless, **found}

    def upsert(self, entries: Mapping[str, str]) -> dict[str, str]:
        failures: dict[str, str] = {}
        for name, value in entries.items():
            try:
                if set_value(name, value):
                    self._known.add(name)
                else:
                    self._meaningless[name] = value
            except OSError as error:
                failures[name] = f"sysctl {name.replace('/', '.')} = {value}: {error.strerror}"
        return failures

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        """A setting is not taken back: its device is gone, or other software may rely on it by now."""
        for name in keys:
            self._known.discard(name)
            self._meaningless.pop(name, None)
        return {}
