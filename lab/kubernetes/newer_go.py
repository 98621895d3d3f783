"""Bring the source of Kubernetes 1.20 up to the compiler's Go, which is years younger. Without this an API
server serves everything but custom resources."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.errors import LabError
from lab.kubernetes.debian import Archive
from lab.process import Log

PACKAGE = "golang-github-modern-go-reflect2-dev"
REFLECT2 = "github.com/modern-go/reflect2"
VALIDATORS = ("github.com/go-openapi/validate/type.go", "k8s.io/kube-openapi/pkg/validation/validate/type.go")
COMPARED = "reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data))"
NIL = "reflect.TypeOf(data).Kind() == reflect.Map && reflect.ValueOf(data).IsNil()"
HINT = "Build on Debian 12, or teach lab/kubernetes the new version"


def adapt(tree: Path, work_dir: Path, log: Log) -> None:
    """Change what the source tree vendors. Raises LabError when it is another tree than expected."""
    _replace_reflect2(tree / "vendor" / REFLECT2, work_dir, log)
    for name in VALIDATORS:
        tell_empty_from_null(tree / "vendor" / name)


def _replace_reflect2(vendored: Path, work_dir: Path, log: Log) -> None:
    """The version that Kubernetes carries calls a function of the runtime whose parameters changed in
    Go 1.18: whatever walks a map with it crashes. Debian has the version that knows both."""
    unpacked = work_dir / "reflect2"
    Archive(work_dir / "binary", log).unpack([PACKAGE], unpacked)
    if not vendored.is_dir():
        raise LabError(f"the source of Kubernetes does not carry {REFLECT2}", HINT)
    shutil.rmtree(vendored)
    shutil.copytree(unpacked / "usr/share/gocode/src" / REFLECT2, vendored)


def tell_empty_from_null(file: Path) -> None:
    """The validators compare reflect.Value structs, pointers and all, to find what is nil. Newer runtimes
    keep all zero values in one place: there an empty string, 0 and false look like nil, and are refused as
    "null"."""
    text = file.read_text()
    if text.count(COMPARED) != 1:
        raise LabError(f"{file.name} does not compare as Kubernetes 1.20's does", HINT)
    file.write_text(text.replace(COMPARED, NIL))
