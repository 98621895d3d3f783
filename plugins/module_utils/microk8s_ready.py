# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Wait until a MicroK8s node is ready, and say what is missing when it does not become so.

``microk8s status`` is no probe: on a worker and on a stopped node it prints a sentence and exits 0. Asked
instead: the API's /readyz (control plane), the Node object's Ready condition, its kubelet's version, and
whether kubelet has spoken since the moment that counts - a condition may be older than the restart it should
tell about.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import (
    Kubectl,
    KubectlError,
    condition,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import CONTROL_PLANE, Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd import Snapd
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import SnapdError

POLL_INTERVAL = 1.0
#: Services that must run, by role. Others exit on purpose on some nodes, so "inactive" says nothing there.
NEEDED_SERVICES = {
    CONTROL_PLANE: ("daemon-containerd", "daemon-kubelite", "daemon-k8s-dqlite", "daemon-cluster-agent"),
    "worker": ("daemon-containerd", "daemon-kubelite", "daemon-apiserver-proxy", "daemon-cluster-agent"),
}


class NotReadyError(PodwireError):
    """The node did not become ready in time."""


@dataclass(frozen=True)
class Readiness:
    """One look at the node: ready, or why not."""

    ready: bool
    reason: str = ""
    node: Mapping[str, Any] | None = None


def release_of(version: str) -> str | None:
    """``1.28.15`` from ``v1.28.15``, ``v1.28.15+abc`` or ``1.28.15-2``; ``None`` when it is no release
    number.
    """
    match = re.match(r"v?(\d+\.\d+\.\d+)(?![\d.])", version or "")
    return match.group(1) if match else None


def parse_time(text: str | None) -> float | None:
    """A Kubernetes time (RFC 3339 in UTC, with or without fractions) as seconds since the epoch."""
    if not text:
        return None
    try:
        moment = datetime.strptime(text.split(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return None
    fraction = re.search(r"\.(\d+)", text)
    return moment.replace(tzinfo=timezone.utc).timestamp() + (
        float(f"0.{fraction.group(1)}") if fraction else 0.0
    )


def lacks_only_network(ready: Mapping[str, Any]) -> bool:
    """Whether a Ready condition is false for no other reason than a missing CNI configuration."""
    message = str(ready.get("message", ""))
    # kubelet puts several problems in brackets.
    return not message.startswith("[") and "NetworkReady=false" in message


def judge(
    node: Mapping[str, Any] | None,
    lease: Mapping[str, Any] | None,
    name: str,
    *,
    since: float = 0.0,
    version: str = "",
    network: bool = True,
) -> Readiness:
    """What the Node object and its lease tell.

    ``since`` is a wall clock time in seconds, 0 for "any"; ``version`` the snap's, empty for "any". Without
    ``network`` a node that lacks nothing but a pod network counts as ready.
    """
    if node is None:
        return Readiness(False, f"the node {name} has not registered with the API")
    status = node.get("status") or {}
    ready = condition(status.get("conditions"), "Ready")
    if ready.get("status") != "True" and (network or not lacks_only_network(ready)):
        why = ready.get("message") or ready.get("reason") or "no condition yet"
        return Readiness(False, f"node {name} is not Ready: {why}", node)
    # A kubelet that wants its lease before its node is registered gets none, and tries again after ten
    # seconds: what it says of the node itself counts as well.
    words = (((lease or {}).get("spec") or {}).get("renewTime"), ready.get("lastHeartbeatTime"))
    if since and not any((parse_time(spoken) or 0.0) >= since for spoken in words):
        return Readiness(False, f"kubelet of {name} has not spoken to the API since it was started", node)
    wanted, have = release_of(version), release_of((status.get("nodeInfo") or {}).get("kubeletVersion", ""))
    if wanted and have and wanted != have:
        return Readiness(False, f"kubelet of {name} is still at {have}, the snap is {wanted}", node)
    return Readiness(True, "", node)


def look(kubectl: Kubectl, *, since: float = 0.0, version: str = "", network: bool = True) -> Readiness:
    """Ask the API on this node once."""
    layout = kubectl.layout
    if not layout.kubeconfig.exists():
        return Readiness(False, f"{layout.kubeconfig} has not been written yet")
    name = layout.node_name
    try:
        if layout.role == CONTROL_PLANE:
            kubectl.raw("/readyz", timeout=10)
        node = kubectl.get("node", name)
        lease = kubectl.get("lease", name, namespace="kube-node-lease") if since else None
    except KubectlError as error:
        return Readiness(False, str(error))
    return judge(node, lease, name, since=since, version=version, network=network)


def wait_ready(
    kubectl: Kubectl,
    snapd: Snapd,
    *,
    deadline: float,
    since: float = 0.0,
    version: str = "",
    network: bool = True,
) -> Mapping[str, Any]:
    """Wait until the node this runs on is ready, and return its Node object."""
    while True:
        now = look(kubectl, since=since, version=version, network=network)
        if now.ready and now.node is not None:
            return now.node
        if time.monotonic() >= deadline:
            name = kubectl.layout.node_name
            raise NotReadyError(
                f"MicroK8s on {name} is not ready: {now.reason}{_service_text(snapd, kubectl.layout)}",
                "Look at journalctl -u snap.microk8s.daemon-kubelite -n 100 and at microk8s inspect; then "
                "run again, or "
                "raise timeout.",
            )
        time.sleep(POLL_INTERVAL)


def wait_for_node(
    kubectl: Kubectl, name: str, *, deadline: float, network: bool = True, pod_cidr: bool = False
) -> Mapping[str, Any]:
    """Wait, on a control plane, until a node of the cluster is ready, and return its Node object."""
    while True:
        try:
            now = judge(kubectl.get("node", name), None, name, network=network)
        except KubectlError as error:
            now = Readiness(False, str(error))
        if now.ready and now.node is not None:
            if not pod_cidr or now.node["spec"].get("podCIDR"):
                return now.node
            now = Readiness(
                False, f"node {name} has no podCIDR (kube-controller-manager --allocate-node-cidrs)", now.node
            )
        if time.monotonic() >= deadline:
            raise NotReadyError(
                f"The cluster is not ready: {now.reason}",
                f"Look at journalctl -u snap.microk8s.daemon-kubelite on {name}; then run again, or raise "
                "timeout.",
            )
        time.sleep(POLL_INTERVAL)


def _service_text(snapd: Snapd, layout: Layout) -> str:
    """The services that should run on this node and do not."""
    try:
        states = {str(app["name"]): app["active"] for app in snapd.services("microk8s")}
    except SnapdError:
        return ""
    down = [name for name in NEEDED_SERVICES[layout.role] if states.get(name) is False]
    return f" (services that do not run: {', '.join(down)})" if down else ""
