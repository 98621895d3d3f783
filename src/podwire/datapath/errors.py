"""Expected failures of the datapath manager: what is wrong, and ``hint``: what to do about it."""

from __future__ import annotations


class DatapathError(Exception):
    """The datapath cannot be brought into the wanted state, or is not in it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message.rstrip('.')}. {self.hint}" if self.hint else message

    @property
    def cause(self) -> str:
        """The message without the hint."""
        return super().__str__()


class UnsupportedKernel(DatapathError):  # noqa: N818 - reads as what is wrong
    """The running kernel is older than the datapath's floor."""


class NotInstalled(DatapathError):  # noqa: N818
    """No datapath is loaded on this node."""
