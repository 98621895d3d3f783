"""Bring a library in the source of Kubernetes up to the compiler's Go.

The version of reflect2 that Kubernetes 1.20 carries calls a function of the runtime whose parameters changed
in Go 1.18. Whatever walks a map with it crashes, such as an API server that gets a custom resource. Debian
has the version that knows both.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.errors import LabError
from lab.kubernetes.debian import Archive
from lab.process import Log

PACKAGE = "golang-github-modern-go-reflect2-dev"
IMPORT = "github.com/modern-go/reflect2"


def replace(tree: Path, work_dir: Path, log: Log) -> None:
    """Put Debian's version where the source tree vendors its own. Raises LabError."""
    unpacked = work_dir / "reflect2"
    Archive(work_dir / "binary", log).unpack([PACKAGE], unpacked)
    vendored = tree / "vendor" / IMPORT
    if not vendored.is_dir():
        raise LabError(f"the source of Kubernetes does not carry {IMPORT}", "Build on Debian 12")
    shutil.rmtree(vendored)
    shutil.copytree(unpacked / "usr/share/gocode/src" / IMPORT, vendored)
