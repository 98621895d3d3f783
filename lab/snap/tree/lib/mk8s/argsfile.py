"""Argument files: one flag a line, `--key=value` or `--key value`; blank lines and # lines are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from . import files


def key_of(line: str) -> str | None:
    """The flag that a line sets, dashes included; None for blank lines and comments."""
    line = line.strip()
    if not line or line.startswith("#"):
        return None
    return line.replace("=", " ", 1).split(" ", 1)[0]


def get(text: str, key: str) -> str | None:
    """The value of a flag, quotes removed; "" without a value, None when absent. The last one wins."""
    value = None
    for line in text.splitlines():
        if key_of(line) == key:
            value = line.strip()[len(key) :].lstrip("= ").replace('"', "").replace("'", "")
    return value


def edit(text: str, changes: Mapping[str, str | None]) -> str:
    """Set flags to values, or remove those whose value is None; everything else keeps its place."""
    lines = []
    pending = dict(changes)
    for line in text.splitlines():
        key = key_of(line)
        if key is None or key not in changes:
            lines.append(line)
        elif key in pending:
            value = pending.pop(key)
            if value is not None:
                lines.append(f"{key}={value}")
    lines += [f"{key}={value}" for key, value in pending.items() if value is not None]
    return "\n".join(lines) + "\n"


def update(path: Path, changes: Mapping[str, str | None]) -> bool:
    """Apply changes to a file; returns whether it differs now."""
    before = files.read(path)
    after = edit(before, changes)
    if after == before:
        return False
    files.write(path, after)
    return True
