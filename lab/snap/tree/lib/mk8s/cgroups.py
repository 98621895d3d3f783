"""The cgroup that kubelet puts its pods under, one per node: the nodes of a lab share one kernel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
MACHINE_ID = Path("/etc/machine-id")


def hierarchies(mounts: Iterable[str], *kinds: str) -> list[Path]:
    """The mount points of cgroup file systems of these kinds, from the lines of /proc/self/mounts."""
    fields = (line.split() for line in mounts)
    return [Path(entry[1]) for entry in fields if len(entry) > 2 and entry[2] in kinds]


def own_name(hostname: str, machine_id: str) -> str:
    """The cgroup of this node's pods. The kernel may run another lab, whose nodes are called the same."""
    return f"{hostname}-{machine_id.strip()[:8]}"


def create(name: str) -> None:
    """Make cgroup name in every version 1 hierarchy, able to hold processes."""
    for root in hierarchies(MOUNTS.read_text().splitlines(), "cgroup"):
        path = root / name
        path.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (path / setting).exists() and not (path / setting).read_text().strip():
                (path / setting).write_text((root / setting).read_text())


def remove(name: str) -> None:
    """Remove cgroup name and what is below it, as far as it is empty."""
    for root in hierarchies(MOUNTS.read_text().splitlines(), "cgroup", "cgroup2"):
        top = root / name
        if not top.is_dir():
            continue
        below = sorted((p for p in top.rglob("*") if p.is_dir()), key=lambda p: len(p.parts), reverse=True)
        for path in (*below, top):
            try:
                path.rmdir()
            except OSError:
                continue
