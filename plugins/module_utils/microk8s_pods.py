# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Give the pods of a node a new sandbox, so that they hang on the network that containerd uses now.

Pods that a controller owns are deleted and come back by themselves, here or on another node. A bare pod would
not, so it is made again from its own manifest.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import (
    Kubectl,
    KubectlError,
    condition,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import parse_time
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_takeover import replacing

MIRROR = "kubernetes.io/config.mirror"
#: startTime has whole seconds, and a sandbox that was being made at the switch may still have got the old
#: network.
SLACK = 1.0
_SERVER_FIELDS = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "selfLink",
    "managedFields",
    "generation",
    "ownerReferences",
)


def key(pod: Mapping[str, Any]) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def controller(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner that will make the pod again, or ``None`` for a bare pod."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def is_ready(pod: Mapping[str, Any]) -> bool:
    return condition((pod.get("status") or {}).get("conditions"), "Ready").get("status") == "True"


def has_own_network(pod: Mapping[str, Any]) -> bool:
    """Whether the pod has, or should have, a network of its own that we can renew."""
    if pod["spec"].get("hostNetwork") or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return False
    # The API cannot restart a pod that kubelet reads from a file.
    return MIRROR not in (pod["metadata"].get("annotations") or {})


def on_old_network(pod: Mapping[str, Any], since: float) -> bool:
    """Whether the pod got its network before ``since`` (seconds since the epoch).

    One that is on its way out does not matter any more.
    """
    if pod["metadata"].get("deletionTimestamp"):
        return False
    started = parse_time((pod.get("status") or {}).get("startTime"))
    return has_own_network(pod) and started is not None and started <= since + SLACK


def reborn(pod: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that makes a bare pod again, on the same node."""
    again = copy.deepcopy(dict(pod))
    again.pop("status", None)
    for name in _SERVER_FIELDS:
        again["metadata"].pop(name, None)
    return again


def ready_by_owner(pods: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many ready pods each owner has (a bare pod owns itself); Jobs are left out, they are meant to
    end.
    """
    counts: dict[str, int] = {}
    for pod in pods:
        owner = controller(pod)
        if owner is not None and owner.get("kind") == "Job":
            continue
        if is_ready(pod) and not pod["metadata"].get("deletionTimestamp"):
            name = (
                f"{owner['kind']} {pod['metadata']['namespace']}/{owner['name']}"
                if owner
                else f"Pod {key(pod)}"
            )
            counts[name] = counts.get(name, 0) + 1
    return counts


def waiting_reason(pod: Mapping[str, Any]) -> str:
    """Why a pod does not run, in a few words."""
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return f"{key(pod)}: {waiting.get('reason', '')} {waiting.get('message', '')}".strip()
    scheduled = condition(status.get("conditions"), "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{key(pod)}: {scheduled.get('message', 'not scheduled')}"
    return f"{key(pod)}: {status.get('phase', 'unknown')}"


def due(owner: Mapping[str, Any] | None, count: int) -> int:
    """How many of ``count`` pods are still to come back: none when somebody deleted their owner meanwhile,
    fewer when it was scaled down.
    """
    if owner is None or owner["metadata"].get("deletionTimestamp"):
        return 0
    replicas = (owner.get("spec") or {}).get("replicas")
    return count if replicas is None else min(count, int(replicas))


class Pods:
    """The pods of one node, seen from a control plane."""

    def __init__(self, kubectl: Kubectl, node: str, *, deadline: float, dry: bool) -> None:
        self.kubectl = kubectl
        self.node = node
        self.deadline = deadline
        self.dry = dry

    @property
    def _kept(self) -> Path:
        """Where manifests of bare pods wait while their pods are away: nobody else has a copy."""
        return self.kubectl.layout.lock(f"podwire-bare-pods-{self.node}.json")

    def recreate(self, since: float) -> list[str]:
        """Recreate every pod that hangs on the network from before ``since``; return their names."""
        mine = self.kubectl.items("pods", "-A", f"--field-selector=spec.nodeName={self.node}")
        old = [pod for pod in mine if on_old_network(pod, since)]
        away = self._read_kept()
        names = sorted({*(key(pod) for pod in old), *(key(pod) for pod in away)})
        if not names or self.dry:
            return names
        before = ready_by_owner(self.kubectl.items("pods", "-A"))
        concerned = ready_by_owner(old)
        bare = [pod for pod in old if controller(pod) is None]
        away += [reborn(pod) for pod in bare]
        if away:
            with replacing(self._kept, 0o600) as stream:
                stream.write(json.dumps(away).encode())
        self._delete(old)
        for pod in away:
            self._create(pod)
        self._kept.unlink(missing_ok=True)
        self._wait_running({owner: before[owner] for owner in concerned if owner in before})
        return names

    def _read_kept(self) -> list[dict[str, Any]]:
        try:
            return list(json.loads(self._kept.read_text()))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise PodwireError(
                f"{self._kept} cannot be read: {error}",
                "It holds the manifests of pods that an interrupted run deleted. Create them by hand, delete "
                "the file, and run again.",
            ) from error

    def _create(self, manifest: Mapping[str, Any]) -> None:
        """Make a bare pod again as soon as its name is free, unless somebody made it meanwhile."""
        metadata = manifest["metadata"]
        while True:
            there = self.kubectl.get("pod", metadata["name"], namespace=metadata["namespace"])
            if there is None:
                self.kubectl.run("create", "-f", "-", stdin=json.dumps(manifest))
                return
            if not there["metadata"].get("deletionTimestamp"):
                return
            if time.monotonic() >= self.deadline:
                raise PodwireError(
                    f"The pod {key(manifest)} does not end",
                    "See microk8s kubectl describe pod for what holds it (finalizers, a long grace period); "
                    f"run again. Its manifest is kept in {self._kept}.",
                )
            time.sleep(0.5)

    def _why(self, pod: Mapping[str, Any]) -> str:
        """Why a pod does not run, with its last warning: "ContainerCreating" alone says nothing."""
        chosen = f"involvedObject.name={pod['metadata']['name']},type=Warning"
        events = self.kubectl.items(
            "events", "-n", pod["metadata"]["namespace"], f"--field-selector={chosen}"
        )
        # Times in one format and zone sort as text.
        events.sort(key=lambda event: event.get("lastTimestamp") or "")
        return waiting_reason(pod) + (f" ({events[-1].get('message', '')[:300]})" if events else "")

    def _delete(self, pods: Iterable[Mapping[str, Any]]) -> None:
        by_namespace: dict[str, list[str]] = {}
        for pod in pods:
            by_namespace.setdefault(pod["metadata"]["namespace"], []).append(pod["metadata"]["name"])
        for namespace, names in by_namespace.items():
            self.kubectl.run("delete", "pods", *names, "-n", namespace, "--ignore-not-found", "--wait=false")

    def _due(self, owner: str, count: int) -> int:
        """How many pods of an owner (``ReplicaSet namespace/name``) there are to be, of ``count`` before."""
        kind, _, place = owner.partition(" ")
        namespace, _, name = place.partition("/")
        try:
            return due(self.kubectl.get(kind, name, namespace=namespace), count)
        except KubectlError:
            return count  # such as a kind that kubectl does not know by this name

    def _wait_running(self, wanted: Mapping[str, int]) -> None:
        while True:
            pods = self.kubectl.items("pods", "-A")
            have = ready_by_owner(pods)
            late = {owner: count for owner, count in wanted.items() if have.get(owner, 0) < count}
            late = {
                owner: count for owner, count in late.items() if have.get(owner, 0) < self._due(owner, count)
            }
            if not late:
                return
            missing = [f"{owner} ({have.get(owner, 0)} of {count} ready)" for owner, count in late.items()]
            if time.monotonic() >= self.deadline:
                reasons = [self._why(pod) for pod in pods if not is_ready(pod) and has_own_network(pod)][:5]
                raise PodwireError(
                    f"Not everything that ran before the switch runs again: {', '.join(missing)}. "
                    f"{'; '.join(reasons)}",
                    "Remove the cause; run again to continue.",
                )
            time.sleep(1)
