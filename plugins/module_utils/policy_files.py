# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder hold policies."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

SUFFIXES = (".yaml", ".yml", ".json")


def manifests(source: Path) -> list[Path]:
    """The file, or those of the folder, in the order of their names. Raises PodwireError when there is
    none.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise PodwireError(
            f"{source} does not exist", "src is a file with policies, or a folder of such files."
        )
    found = sorted(path for path in source.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if not found:
        raise PodwireError(
            f"{source} has no file named *{', *'.join(SUFFIXES)}", "Name the folder that has them."
        )
    return found
