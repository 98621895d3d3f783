# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a local snap file says of itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError


@dataclass(frozen=True)
class SnapFile:
    """What a local snap file says of itself."""

    path: Path
    name: str
    version: str
    confinement: str
    type: str

    @property
    def assertions(self) -> Path | None:
        """The assertion file that ``snap download`` leaves beside the snap, if it is there."""
        beside = self.path.with_suffix(".assert")
        return beside if beside.is_file() else None


def parse_snap_yaml(path: Path, text: str) -> SnapFile:
    """Read the top-level scalars that matter from a ``meta/snap.yaml``."""
    found = dict(re.findall(r"^(name|version|confinement|type):[ \t]*[\"']?([^\"'\s#]+)", text, re.MULTILINE))
    if "name" not in found:
        raise PodwireError(
            f"{path} holds no snap: its meta/snap.yaml has no name",
            hint="Pack it again, or give another file.",
        )
    return SnapFile(
        path=path,
        name=found["name"],
        version=found.get("version", ""),
        confinement=found.get("confinement", "strict"),
        type=found.get("type", "app"),
    )
