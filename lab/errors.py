"""Expected failures of the lab. Each names its cause, what to do, and where to read more."""

from __future__ import annotations

from pathlib import Path


class LabError(Exception):
    """Something the lab needs does not work. ``hint`` is the way out, ``log`` the file with all output."""

    def __init__(self, message: str, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.log = log
