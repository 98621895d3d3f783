"""What a lab is made of, built side by side and cached by content."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lab import graph, imagebuild, process, rootfs, state
from lab.config import ROOT
from lab.errors import LabError
from lab.process import Log
from lab.progress import Progress

HERE = Path(__file__).parent
GIBIBYTE = 1 << 30
COLLECTION = "ansible_collections.podwire.ebpf.plugins.module_utils"
# The latest entries of each kind that stay in the cache; those that a lab of this checkout runs on stay too.
KEEP = 3

Paths = Mapping[str, Path]


@dataclass(frozen=True)
class Artifact:
    """Something to build. ``make`` returns its directory, from the cache when nothing has changed."""

    name: str
    title: str
    make: Callable[[Any, Paths, Log], Path]
    needs: Sequence[str] = ()
    optional: bool = False  # only built when asked for by name


def _common() -> list[Path]:
    return [HERE / "rootfs.py", HERE / "imagebuild.py"]


def _named(given: str | Path) -> list[str | Path]:
    """A path counts by its place in the checkout and by its content."""
    return [str(given.relative_to(ROOT)), given] if isinstance(given, Path) else [given]


def _cached(
    kind: str,
    inputs: Callable[[Paths], Sequence[str | Path]],
    builder: Callable[[Path, Path, Paths, Log], object],
    need: int,
) -> Callable[[Any, Paths, Log], Path]:
    """A ``make`` for a builder that takes (output directory, scratch directory, what it needs, log)."""

    def make(cache: Any, made: Paths, log: Log) -> Path:
        fingerprint = importlib.import_module(f"{COLLECTION}.cache").fingerprint

        def fill(directory: Path) -> None:
            scratch = directory / ".scratch"
            scratch.mkdir()
            builder(directory, scratch, made, log)
            # Go writes its module cache without write permission.
            process.run(["chmod", "-R", "u+w", scratch], check=False)
            shutil.rmtree(scratch)

        parts = [part for given in inputs(made) for part in _named(given)]
        path: Path = cache.build(kind, fingerprint(kind, *parts), fill, log=log, need=need)
        cache.prune(kind, KEEP, state.artifacts_in_use())
        return path

    return make


def _workloads(directory: Path, _scratch: Path, _made: Paths, log: Log) -> None:
    imagebuild.build_pause(directory, log)
    imagebuild.build_probe(directory, log)


def _cluster_dns(directory: Path, _scratch: Path, _made: Paths, log: Log) -> None:
    imagebuild.build_cluster_dns(directory, log)


def _cluster_dns_inputs(_made: Paths) -> list[str | Path]:
    return [
        rootfs.SUITE,
        metadata.version("dnspython"),
        *sorted(imagebuild.CLUSTER_DNS_PROGRAM.glob("*.py")),
        HERE / "oci.py",
        *_common(),
    ]


def _starwars(directory: Path, scratch: Path, _made: Paths, log: Log) -> None:
    from lab import starwars

    starwars.build(directory, scratch, log)


def _starwars_inputs(_made: Paths) -> list[Path]:
    from lab import starwars

    return starwars.inputs()


def _kubernetes(directory: Path, scratch: Path, _made: Paths, log: Log) -> None:
    from lab.kubernetes import build

    build.build(directory, scratch, log)


def _kubernetes_inputs(_made: Paths) -> list[Path]:
    from lab.kubernetes import build

    return build.inputs()


def _conformance(directory: Path, scratch: Path, _made: Paths, log: Log) -> None:
    from lab.kubernetes import e2e

    e2e.build(directory, scratch, log)


def _conformance_inputs(_made: Paths) -> list[str | Path]:
    from lab.kubernetes import e2e

    return e2e.inputs()


def _snaps(directory: Path, scratch: Path, made: Paths, log: Log) -> None:
    from lab.snap import build

    build.build(directory, scratch, log, kubernetes_dir=made["kubernetes"])


def _snaps_inputs(made: Paths) -> list[str | Path]:
    from lab.snap import build

    return [*build.inputs(), made["kubernetes"].name]


def _datapath(cache: Any, _made: Paths, log: Log) -> Path:
    path: Path = importlib.import_module(f"{COLLECTION}.datapath_build").build(ROOT / "bpf", cache, log)
    return path


def _bundle(cache: Any, _made: Paths, log: Log) -> Path:
    path: Path = importlib.import_module(f"{COLLECTION}.bundle").build(ROOT, cache, log)
    return path


ARTIFACTS = (
    Artifact(
        "kubernetes",
        "Kubernetes from Debian's source",
        _cached("kubernetes", _kubernetes_inputs, _kubernetes, 5 * GIBIBYTE),
    ),
    Artifact(
        "node",
        "node image",
        _cached(
            "node-image",
            lambda _: [
                rootfs.SUITE,
                imagebuild.NODE,
                imagebuild.WORKLOADS / "address",
                imagebuild.WORKLOADS / "udp-address.c",
                *_common(),
            ],
            lambda directory, _scratch, _made, log: imagebuild.build_node(directory, log),
            2 * GIBIBYTE,
        ),
    ),
    Artifact("bundle", "node bundle", _bundle),
    Artifact("datapath", "datapath objects", _datapath),
    Artifact(
        "workloads",
        "workload images",
        _cached(
            "workloads",
            lambda _: [rootfs.SUITE, imagebuild.WORKLOADS, HERE / "oci.py", *_common()],
            _workloads,
            GIBIBYTE,
        ),
    ),
    Artifact(
        "cluster-dns", "cluster DNS", _cached("cluster-dns", _cluster_dns_inputs, _cluster_dns, GIBIBYTE)
    ),
    Artifact("starwars", "Star Wars demo", _cached("starwars", _starwars_inputs, _starwars, GIBIBYTE)),
    Artifact(
        "snaps",
        "MicroK8s snap",
        _cached("snaps", _snaps_inputs, _snaps, 2 * GIBIBYTE),
        needs=("kubernetes",),
    ),
    Artifact(
        "conformance",
        "upstream's end-to-end specs",
        _cached("conformance", _conformance_inputs, _conformance, 5 * GIBIBYTE),
        optional=True,
    ),
)


def open_cache() -> Any:
    """The cache that the lab and the Ansible modules share."""
    # The collection's own name for itself, so that its modules find each other as they do under Ansible.
    collections = str(ROOT / "collections")
    if collections not in sys.path:
        sys.path.insert(0, collections)
    cache = importlib.import_module(f"{COLLECTION}.cache").Cache()
    # One compiler cache for all builds of Kubernetes: a changed patch costs seconds instead of minutes.
    os.environ.setdefault("GOCACHE", str(cache.root / "go-build"))
    return cache


def build(progress: Progress, names: Sequence[str] = ()) -> dict[str, Path]:
    """Build the named artifacts and what they need; returns their directories. Without names: all of a lab.

    Raises ``LabError`` naming the artifact that failed and its log; the others are stopped.
    """
    cache = open_cache()
    chosen = (
        _with_needs(names) if names else [artifact.name for artifact in ARTIFACTS if not artifact.optional]
    )
    known = {artifact.name: artifact for artifact in ARTIFACTS}

    def work(name: str, made: Paths) -> Path:
        artifact = known[name]
        with progress.step(artifact.title, log_name=name) as step:
            try:
                path = artifact.make(cache, made, step.log)
            except Exception as error:
                raise _failed(artifact, error, step.file) from error
            step.result = path.name if step.elapsed > 2 else "from the cache"
            return path

    return graph.run_all(
        {artifact.name: artifact.needs for artifact in ARTIFACTS if artifact.name in chosen},
        work,
        on_failure=process.stop_all,
    )


def _with_needs(names: Sequence[str]) -> list[str]:
    known = {artifact.name: artifact for artifact in ARTIFACTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise LabError(f"there is no artifact {', '.join(unknown)}", f"Known: {', '.join(known)}")
    chosen = list(names)
    for name in chosen:  # grows while it is walked
        chosen += [needed for needed in known[name].needs if needed not in chosen]
    return chosen


def _failed(artifact: Artifact, error: Exception, log: Path) -> LabError:
    hint = getattr(error, "hint", "") or "Fix the cause and run it again; finished parts are kept"
    message = str(error)
    if hint in message:  # some errors carry it in their text already
        message = message.replace(hint, "").rstrip(". ")
    kind = "" if isinstance(error, LabError) or hasattr(error, "hint") else f"{type(error).__name__}: "
    return LabError(f"{artifact.title}: building it failed: {kind}{message}", hint, log)
