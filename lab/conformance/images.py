"""The specs' images on the lab's nodes, which reach no registry."""

from __future__ import annotations

import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import containers, nodes
from lab.config import Lab
from lab.errors import LabError
from lab.process import Log

CTR = ("/snap/bin/microk8s", "ctr", "image")
PLACE = "var/tmp"
IMPORT_SECONDS = 120


def described(archive: Path) -> tuple[str, str]:
    """Name and digest of the image in an OCI archive."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("index.json")
        assert member is not None
        manifest = json.load(member)["manifests"][0]
    return manifest["annotations"]["io.containerd.image.name"], manifest["digest"]


def has(listed: str, name: str, digest: str) -> bool:
    """Whether ``ctr image ls`` lists the image with that content. Pure."""
    return any(
        words[0] == name and digest in words for line in listed.splitlines() if (words := line.split())
    )


def provide(lab: Lab, archive: Path, log: Log) -> None:
    """Have the image on every node; a node that has it already is left alone. Raises LabError."""
    name, digest = described(archive)

    def on(node: str) -> None:
        if has(nodes.ssh(lab, node, [*CTR, "ls"]).stdout, name, digest):
            return
        log(f"importing {name} on {node}")
        inside = Path(f"/proc/{containers.alive(lab, node).pid}/root", PLACE, archive.name)
        shutil.copyfile(archive, inside)
        try:
            nodes.ssh(lab, node, [*CTR, "import", f"/{PLACE}/{archive.name}"], timeout=IMPORT_SECONDS)
        finally:
            inside.unlink()
        if not has(nodes.ssh(lab, node, [*CTR, "ls"]).stdout, name, digest):
            raise LabError(
                f"{node} has imported {archive.name}, but does not list {name} with its content",
                f"See `make ssh LAB={lab.name} NODE={node}`, there `microk8s ctr image ls`",
            )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(on, lab.nodes))
