"""`microk8s status`: what is reported, in the three formats."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from . import api, host, nodefiles
from .layout import Layout

NOT_RUNNING = "microk8s is not running. Use microk8s inspect for a deeper inspection."


@dataclass
class Status:
    """What `microk8s status` says about a control-plane node."""

    running: bool
    high_availability: bool
    datastore: list[tuple[str, str]] = field(default_factory=list)  # (address:port, role)


def is_ready(layout: Layout) -> bool:
    """The API answers, service/kubernetes exists, and some node is plainly Ready."""
    try:
        api.request(layout, "/api/v1/namespaces/default/services/kubernetes")
        return any(api.node_status(node) == "Ready" for node in api.nodes(layout))
    except (api.ApiError, OSError):
        return False


def wait_ready(layout: Layout, timeout: float) -> bool:
    """Wait until is_ready; a timeout of 0 waits forever."""
    deadline = time.monotonic() + timeout
    while not is_ready(layout):
        if timeout and time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def gather(layout: Layout, running: bool) -> Status:
    members = [(address, "voter") for address in nodefiles.backend_addresses(layout)]
    return Status(running, layout.locked("ha-cluster"), members if running else [])


def render(status: Status, form: str) -> str:
    """The report as text. Forms: pretty, yaml, short."""
    return {"pretty": _pretty, "yaml": _yaml, "short": _short}[form](status)


def _yaml(status: Status) -> str:
    lines = [
        "microk8s:",
        f"  running: {status.running}",
        "high-availability:",
        f"  enabled: {status.high_availability}",
    ]
    if not status.running:
        return "\n".join([*lines, f"  message: {NOT_RUNNING}"])
    lines.append("  nodes:")
    for address, role in status.datastore:
        lines += [f"    - address: {address}", f"      role: {role}"]
    return "\n".join([*lines, "addons: []"])


def _pretty(status: Status) -> str:
    if not status.running:
        return NOT_RUNNING
    voters = [address for address, role in status.datastore if role == "voter"]
    lines = [
        "microk8s is running",
        f"high-availability: {'yes' if len(voters) > 2 else 'no'}",
        f"  datastore master nodes: {' '.join(voters) or 'none'}",
        "  datastore standby nodes: none",
        "addons:",
        "  enabled:",
        "  disabled:",
    ]
    return "\n".join(lines)


def _short(status: Status) -> str:
    return "" if status.running else NOT_RUNNING


def stopped(layout: Layout) -> bool:
    return layout.locked("stopped.lock") or not host.is_active("kubelite")
