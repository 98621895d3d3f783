"""kube-apiserver and kube-proxy from the source package of the lab's Kubernetes, and Debian's etcd."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache, fingerprint

from lab import rootfs
from lab.kubernetes import build as kubernetes
from lab.kubernetes import newer_go
from lab.kubernetes.debian import Archive
from lab.process import Log, stream

OUTPUTS = ("kube-apiserver", "kube-proxy")


def provide(log: Log) -> Path:
    """The directory with the three programs, built once into the build cache: about a minute when the lab's
    Kubernetes has been built on this machine, five when not. Raises LabError."""
    cache = Cache()
    os.environ.setdefault("GOCACHE", str(cache.root / "go-build"))
    key = fingerprint(",".join(OUTPUTS), *kubernetes.inputs())

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="podwire-benchmark-", dir="/var/tmp") as work:
            _compile(target, Path(work), log)
            Archive(Path(work) / "binary", log).unpack(["etcd-server"], target)
            (target / "usr" / "bin" / "etcd").rename(target / "etcd")

    return cache.build("benchmark-services", key, make)


def _compile(target: Path, work: Path, log: Log) -> None:
    log(f"fetching and unpacking the source of Kubernetes {kubernetes.VERSION} ({rootfs.SUITE})")
    source = Archive(work / "apt", log, sources=True).source("kubernetes")
    kubernetes.check_version(source)
    tree = work / "go" / "src" / kubernetes.MODULE
    tree.parent.mkdir(parents=True)
    source.rename(tree)
    newer_go.adapt(tree, work, log)
    environment = kubernetes.go_environment(work)
    kubernetes.generate_openapi(tree, work, environment, log)
    log("compiling kube-apiserver and kube-proxy")
    stream(
        ["go", "build", "-trimpath", "-tags", kubernetes.TAGS, "-ldflags", kubernetes.link_flags(),
         "-o", f"{target}/", *(f"./cmd/{name}" for name in OUTPUTS)],
        log,
        what="compiling kube-apiserver and kube-proxy",
        env=environment,
        cwd=tree,
    )  # fmt: skip
