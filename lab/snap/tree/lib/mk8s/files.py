"""Writing files so that nobody ever reads half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o660) -> None:
    """Replace path with text by rename, within its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.rename(path)


def read(path: Path, default: str = "") -> str:
    """The text of path, or default when there is no such file."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return default
