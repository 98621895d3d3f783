# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a pod network and a kubelet leave on a host, below /var."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

#: Under which name containerd gives a pod its loopback interface.
LOOPBACK = "cni-loopback"
#: What libcni remembers of an ADD until the DEL: network, container, interface.
_RESULT = re.compile(r"(?P<network>.+)-[0-9a-f]{64}-[^-]+")


def address_files(var: Path, networks: Sequence[str]) -> list[Path]:
    """host-local's directories of these networks."""
    return [path for name in networks if (path := var / "lib/cni/networks" / name).is_dir()]


def results(var: Path, networks: Sequence[str]) -> list[Path]:
    """What libcni remembers of pods that these networks wired and never heard of again."""
    return [
        path
        for path in sorted((var / "lib/cni/results").glob("*"))
        if (match := _RESULT.fullmatch(path.name)) and match["network"] in networks
    ]


def pod_logs(var: Path) -> list[Path]:
    """kubelet's directories with the logs of pods."""
    return [path for name in ("pods", "containers") if (path := var / "log" / name).is_dir()]


def remove(paths: Sequence[Path]) -> None:
    """Remove files and whole directories."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
