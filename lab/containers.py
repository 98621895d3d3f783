"""The lab's containers: systemd machines as nodes, and the world outside the cluster. Talks to podman."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config import LABEL, WORLD, Lab
from lab.errors import LabError
from lab.process import Log, run

IMAGE = "localhost/podwire-node"
# overlayfs cannot lie on overlayfs, so what holds images, pods or snaps gets a volume.
VOLUMES = {
    "snap": "/var/snap",
    "snapd": "/var/lib/snapd",
    "containerd": "/var/lib/containerd",
    "kubelet": "/var/lib/kubelet",
    "etcd": "/var/lib/etcd",
}
EXITS = Path("/run/libpod/exits")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Container:
    """A container as podman and the kernel see it."""

    name: str
    id: str
    pid: int  # 0 when it does not run
    labels: dict[str, str]
    state: str

    @property
    def alive(self) -> bool:
        return self.pid > 0


def find(lab_name: str) -> list[Container]:
    """The lab's containers, also those that podman lists as running though their processes are gone."""
    ids = run(
        ["podman", "ps", "-a", "-q", "--no-trunc", "--filter", f"label={LABEL}={lab_name}"],
        what="asking podman for containers",
    ).stdout.split()
    if not ids:
        return []
    # One that disappears meanwhile makes inspect fail as a whole; what it printed is still valid.
    shown = run(["podman", "container", "inspect", *ids], check=False).stdout
    return sorted((_container(facts) for facts in json.loads(shown or "[]")), key=lambda item: item.name)


def _container(facts: dict[str, Any]) -> Container:
    pid = int(facts["State"].get("Pid") or 0)
    return Container(
        name=facts["Name"],
        id=facts["Id"],
        pid=pid if pid and _is_of(pid, facts["Id"]) else 0,
        labels=facts["Config"].get("Labels") or {},
        state=facts["State"].get("Status", ""),
    )


def _is_of(pid: int, container_id: str) -> bool:
    """Whether the process lives and is the container's: after a crash the number may be another's, or a
    zombie's that nobody waits for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return status not in "ZX" and container_id in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False


def image_tag(key: str) -> str:
    return f"{IMAGE}:{key}"


def load_image(archive: Path, key: str, log: Log) -> str:
    """Import the node's root filesystem into podman unless it is there; returns the image's name."""
    tag = image_tag(key)
    if run(["podman", "image", "exists", tag], check=False).returncode == 0:
        return tag
    log("importing the node image into podman")
    run(
        ["podman", "import", "--change", 'CMD ["/usr/local/sbin/lab-init"]', archive, tag],
        what="importing the node image",
        hint="See that `podman info` works and that the disk has 2 GiB free",
    )
    for old in run(["podman", "images", "--format", "{{.Repository}}:{{.Tag}}", IMAGE]).stdout.split():
        if old != tag:  # in use by another lab: podman refuses, and it stays
            run(["podman", "rmi", old], check=False)
    return tag


def start_again(container: Container) -> bool:
    """Start a container that ended, as a machine is switched on again; False when podman cannot."""
    if container.state == "running" and EXITS.is_dir():
        # The monitor died with the container, so podman was never told. This file is how monitors tell it.
        (EXITS / container.id).write_text("137")
    run(["podman", "container", "cleanup", container.name], check=False, timeout=60)
    started = run(["podman", "start", container.name], check=False, timeout=60).returncode == 0
    return started and any(item.alive for item in find(container.labels[LABEL]) if item.id == container.id)


def create(lab: Lab, member: str, image: str) -> None:
    """Make and start the container of a member, with empty volumes."""
    name = lab.container(member)
    labels = {LABEL: lab.name, f"{LABEL}.member": member, f"{LABEL}.image": image}
    command = ["podman", "--runtime", "runc", "run", "--detach", "--name", name, "--hostname", member]
    command += [f"--label={key}={value}" for key, value in labels.items()]
    command += ["--network=none", "--privileged", "--cgroupns=private", "--pids-limit=-1", "--stop-timeout=2"]
    command += ["--no-hosts"]
    # Without these two runc tries to raise hard limits, which a machine may forbid.
    command += ["--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096"]
    if member == WORLD:
        command += ["--systemd=false", image, "/usr/local/sbin/lab-world"]
    else:
        command += ["--systemd=always"]
        for what, place in VOLUMES.items():
            volume = f"{name}-{what}"
            run(["podman", "volume", "create", f"--label={LABEL}={lab.name}", volume], check=False)
            command += ["--volume", f"{volume}:{place}:exec,suid,dev"]
        command += ["--volume", f"{lab.state / 'nodes' / member}:/etc/podwire-lab:ro", image]
    run(
        command,
        what=f"starting the node {member}",
        hint="The lab needs root, podman and runc; `make bootstrap` installs them",
    )


def alive(lab: Lab, member: str) -> Container:
    """The running container of a member; ``LabError`` with its last words when it does not run."""
    name = lab.container(member)
    found = next((item for item in find(lab.name) if item.name == name), None)
    if found and found.alive:
        return found
    logs = run(["podman", "logs", "--tail", "20", name], check=False)
    raise LabError(
        f"the container {name} does not run:\n{(logs.stdout + logs.stderr).strip()}",
        "See `podman info`; make down removes the lab",
    )


def volumes(lab_name: str) -> list[str]:
    """The lab's volumes, by label or by name."""
    listed = run(
        ["podman", "volume", "ls", "--format", f'{{{{.Name}}}} {{{{index .Labels "{LABEL}"}}}}'], check=False
    ).stdout
    ours = re.compile(rf"podwire-{re.escape(lab_name)}-(cp|worker)[0-9]+-({'|'.join(VOLUMES)})")
    found = []
    for line in listed.splitlines():
        name, _, label = line.partition(" ")
        if label.strip() == lab_name or ours.fullmatch(name):
            found.append(name)
    return found


def _remove_volumes(names: list[str]) -> None:
    if names:
        run(["podman", "volume", "rm", "--force", *names], check=False)


def remove_one(name: str, container_id: str) -> None:
    """Remove a container whatever state it is in, and the cgroups it made."""
    for attempt in range(3):
        run(["podman", "rm", "--force", "--time=0", "--volumes", name], check=False, timeout=120)
        if run(["podman", "container", "exists", name], check=False).returncode:
            break
        # Podman's record and the kernel disagree, as after a crash: let it notice, then try again.
        run(["podman", "container", "cleanup", name], check=False, timeout=60)
        time.sleep(attempt)
    else:
        raise LabError(
            f"podman cannot remove the container {name}",
            f"See what `podman rm --force {name}` says, then run make down again",
        )
    _remove_cgroups(container_id)


def _remove_cgroups(container_id: str) -> None:
    """Remove what kubelet and systemd left inside the container's cgroups: the kernel keeps those."""
    for top in _CGROUPS.glob(f"*/*/libpod-{container_id}"):
        for folder, _, _ in sorted(os.walk(top), reverse=True):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def remove_all(lab_name: str) -> list[str]:
    """Remove the lab's containers and volumes; returns what there was."""
    containers = find(lab_name)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: remove_one(item.name, item.id), containers))
    names = volumes(lab_name)
    _remove_volumes(names)
    left = volumes(lab_name)
    if left:
        raise LabError(
            f"podman cannot remove the volumes {', '.join(left)}", "See `podman volume rm --force NAME`"
        )
    return [item.name for item in containers] + names
