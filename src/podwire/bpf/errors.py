"""Errors of the libbpf binding: each names the kernel's answer (errno) and the object concerned."""

from __future__ import annotations

import errno as _errno
import os


def errno_name(number: int) -> str:
    """``ENOENT`` for 2, ``ENOTSUPP`` for the kernel-internal 524, the bare number otherwise."""
    if number == 524:
        return "ENOTSUPP"
    return _errno.errorcode.get(number, str(number))


class BpfError(Exception):
    """An operation on a BPF object failed.

    ``errno`` is positive (0 when the kernel was not involved), ``subject`` the object concerned.
    """

    def __init__(self, action: str, subject: str, number: int = 0, detail: str = "") -> None:
        self.action = action
        self.subject = subject
        self.errno = number
        self.detail = detail
        message = f"cannot {action} {subject}"
        if number:
            reason = "not supported by this kernel" if number == 524 else os.strerror(number)
            message += f": {reason} ({errno_name(number)})"
        if detail:
            message += f": {detail}"
        super().__init__(message)


class LoadError(BpfError):
    """An object file could not be opened or loaded; ``log`` is all that libbpf and the verifier said."""

    LAST_LINES = 25

    def __init__(self, subject: str, number: int, log: str) -> None:
        self.log = log
        lines = [line for line in log.splitlines() if line.strip()]
        shown = lines[-self.LAST_LINES :]
        if len(lines) > len(shown):
            shown = [f"... ({len(lines) - len(shown)} earlier lines)", *shown]
        super().__init__("load", subject, number, "\n  ".join(["", *shown]) if shown else "")


class LayoutError(BpfError):
    """A value does not fit the type that the object's BTF declares."""

    def __init__(self, subject: str, detail: str) -> None:
        super().__init__("convert", subject, 0, detail)
