# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""What the modules that build on the controller share: a cache that tells what it did, and how they end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Builder, Cache, CacheError, Log
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

ARGUMENTS: dict[str, dict[str, Any]] = {
    "source": {"type": "path", "required": True},
    "cache": {"type": "path"},
}
"""Options of every module that builds; documented in the fragment ``podwire.ebpf.build``."""


class TellingCache(Cache):
    """A cache that remembers which entries were missing, and with ``dry`` leaves them missing."""

    def __init__(self, root: str | os.PathLike[str] | None, *, dry: bool = False) -> None:
        self.lines: list[str] = []
        self.missing: list[Path] = []
        self.dry = dry
        super().__init__(root, log=self.lines.append)

    def build(self, kind: str, key: str, builder: Builder, *, log: Log | None = None, need: int = 0) -> Path:
        entry = self.path(kind, key)
        if self.get(kind, key):
            return entry
        self.missing.append(entry)
        return entry if self.dry else super().build(kind, key, builder, log=log, need=need)


Build = Callable[[TellingCache], "tuple[Path, str]"]


def run(module: AnsibleModule, build: Build) -> dict[str, Any]:
    """Turn the outcome of ``build(cache)``, an entry (or a file in one) and its name, into a module's result.

    Errors end the module. ``path`` of the result exists unless check mode found it missing.
    """
    cache = TellingCache(module.params["cache"] or None, dry=module.check_mode)
    try:
        entry, name = build(cache)
    except PodwireError as error:
        module.fail_json(log=cache.lines, **error.result())
    except CacheError as error:
        module.fail_json(log=cache.lines, msg=str(error), hint=error.hint)
    changed = entry in cache.missing or entry.parent in cache.missing
    return {
        "changed": changed,
        "path": str(entry),
        "log": cache.lines,
        "diff": {"before": "" if changed else f"{name}\n", "after": f"{name}\n"},
    }
