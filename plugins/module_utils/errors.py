# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""The one exception that podwire's modules raise deep down and report once, in ``main()``."""

from __future__ import annotations


class PodwireError(Exception):
    """An expected failure: what is wrong, and what to do about it.

    ``hint`` is the next thing to try; ``details`` is whatever helps to understand (a command's output, the
    failing checks) and goes into the module's result as it is.
    """

    def __init__(self, message: str, hint: str = "", details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.details = details or {}

    def result(self) -> dict[str, object]:
        """The arguments for ``fail_json``. The message carries the way out: it is what people read."""
        message = str(self)
        if self.hint:
            message = f"{message.rstrip('.')}. {self.hint}"
        return {"msg": message, "hint": self.hint, **self.details}
