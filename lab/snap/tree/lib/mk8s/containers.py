"""Ending what containerd runs: through containerd while it is there, process by process when it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from .layout import Layout


def _ctr(layout: Layout, *arguments: str) -> list[str]:
    command = [str(layout.snap / "bin" / "ctr"), "--address", str(layout.common / "run" / "containerd.sock"),
               "--namespace", "k8s.io", *arguments]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    return done.stdout.split()


def delete_all(layout: Layout) -> None:
    """Kill and delete every container of Kubernetes through containerd."""
    for task in _ctr(layout, "tasks", "ls", "-q"):
        _ctr(layout, "tasks", "delete", "--force", task)
    for container in _ctr(layout, "containers", "ls", "-q"):
        _ctr(layout, "containers", "delete", container)


def descendants(parents: dict[int, int], roots: set[int]) -> set[int]:
    """All processes below roots, given each process's parent."""
    below: set[int] = set()
    frontier = set(roots)
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier and pid not in below}
        below |= frontier
    return below


def _processes() -> tuple[dict[int, int], dict[int, str]]:
    parents: dict[int, int] = {}
    programs: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
            programs[int(entry.name)] = str((entry / "exe").readlink())
        except OSError:
            continue
    return parents, programs


def kill_leftovers(layout: Layout) -> None:
    """Kill the shims of this snap and everything that runs below them."""
    parents, programs = _processes()
    base = str(layout.snap.parent)
    shims = {pid for pid, exe in programs.items() if exe.startswith(base) and "containerd-shim" in exe}
    for pid in (*descendants(parents, shims), *shims):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in shims):
        time.sleep(0.05)


def unmount_below(directory: Path) -> None:
    """Detach every mount below directory, the deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    for point in sorted((p for p in points if p.startswith(f"{directory}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
