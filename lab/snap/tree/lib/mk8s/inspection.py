"""`microk8s inspect`: what to look at first when a node does not work, in one archive."""

from __future__ import annotations

import subprocess
import tarfile
import time
from pathlib import Path

from . import host
from .layout import Layout


def expected_services(layout: Layout) -> list[str]:
    """The services that should run on this node."""
    if layout.is_worker:
        return ["containerd", "kubelite", "apiserver-proxy", "cluster-agent"]
    return ["containerd", "kubelite", "k8s-dqlite", "cluster-agent", "apiserver-kicker"]


def run(layout: Layout) -> int:
    """Report on the services and pack logs and arguments; 1 when a service that should run does not."""
    report = layout.data / time.strftime("inspection-report-%Y%m%d_%H%M%S.tar.gz")
    failed = False
    directory = layout.common / "run" / "inspection-report"
    directory.mkdir(parents=True, exist_ok=True)
    for service in expected_services(layout):
        active = host.is_active(service)
        failed = failed or not active
        print(f"  Service {host.unit(service)} is {'running' if active else 'NOT running'}")
        journal = subprocess.run(
            ["journalctl", "-n", "3000", "-u", host.unit(service)], check=False, capture_output=True
        )
        (directory / f"{service}.log").write_bytes(journal.stdout)
    for name, command in {
        "addresses": ["ip", "address"],
        "routes": ["ip", "route", "show", "table", "all"],
        "iptables-legacy": ["iptables-save"],
        "mounts": ["cat", "/proc/self/mounts"],
    }.items():
        (directory / name).write_bytes(subprocess.run(command, check=False, capture_output=True).stdout)
    with tarfile.open(report, "w:gz") as archive:
        archive.add(directory, "inspection-report")
        archive.add(layout.data / "args", "inspection-report/args")
    print(f"  Report tarball is at {report}")
    _clear(directory)
    return 1 if failed else 0


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
