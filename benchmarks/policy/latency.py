"""From a policy's creation in the API to its enforcement on every node of a running lab.

Pods sleep on all nodes; policies are created one after the other and stay. Each selects pods on every node
and says something new, so that each of these pods needs another policy map. Two ends are measured, both from
the moment before the request: when the last of these pods has its new map in its node's kernel, which is
read from outside, and when the last node has reported that. All clocks are one: the lab's nodes are
containers of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from lab import nodes as machines
from lab.config import Lab
from podwire.agent.identity_objects import NODE_ENDPOINTS
from podwire.kube.client import ApiError, KubeClient

from . import kernel
from .pods import APPS, Pod, running

PODS, POLICIES = 100, 120
PATIENCE = 20.0
SETTLE_SECONDS = 10
"""Starting pods keeps agents and kubelets busy for a while, which is not what is measured."""
LOOK_SECONDS = 0.001
ASK_EVERY = 15
"""Policies from one question to the agents to the next."""
TARGETS = {"p50_ms": 100.0, "p99_ms": 500.0}
FIRST_PORT = 1024
GROUPS = {"networkpolicies": "/apis/networking.k8s.io/v1", "ciliumnetworkpolicies": "/apis/cilium.io/v2"}
FORMS = ("NetworkPolicy", "CiliumNetworkPolicy", "CiliumNetworkPolicy with a new prefix")
"""Policies of these forms take turns. A prefix that no rule named before needs an identity first."""


def form(number: int) -> str:
    """What policy ``number`` is."""
    return FORMS[number % len(FORMS)]


def policy(number: int) -> tuple[str, dict[str, Any]]:
    """Policy ``number``: the resource's name, and the object."""
    app, peer, port = selected(number), f"app-{(number + 3) % APPS}", FIRST_PORT + number
    if form(number) == "NetworkPolicy":
        rule: dict[str, Any] = {
            "from": [{"podSelector": {"matchLabels": {"app": peer}}}],
            "ports": [{"port": port, "protocol": "TCP"}],
        }
        spec: dict[str, Any] = {
            "podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": [rule],
        }  # fmt: skip
        resource, kind = "networkpolicies", "NetworkPolicy"
    else:
        rule = {"toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}]}
        if form(number) == "CiliumNetworkPolicy":
            rule["fromEndpoints"] = [{"matchLabels": {"app": peer}}]
        else:
            rule["fromCIDR"] = [f"198.{18 + number // 256 % 2}.{number % 256}.0/24"]
        spec = {"endpointSelector": {"matchLabels": {"app": app}}, "ingress": [rule]}
        resource, kind = "ciliumnetworkpolicies", "CiliumNetworkPolicy"
    version = GROUPS[resource].removeprefix("/apis/")
    return resource, {
        "apiVersion": version, "kind": kind, "metadata": {"name": f"policy-{number}"}, "spec": spec,
    }  # fmt: skip


def selected(number: int) -> str:
    """The app that policy ``number`` is for."""
    return f"app-{number // len(FORMS) % APPS}"


class Follower:
    """Notes when the API told of objects; a thread of its own, which ends with the process."""

    def __init__(self, client: KubeClient, path: str, take: Callable[[float, dict[str, Any]], None]) -> None:
        self._client, self._path, self._take = client, path, take
        self._version = ""
        for page in client.list_pages(path):
            self._version = page.version
            for item in page.items:
                take(time.monotonic(), item)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                for events in self._client.watch(self._path, self._version):
                    now = time.monotonic()
                    for event in events:
                        if event["type"] == "ERROR":
                            raise RuntimeError(f"watching {self._path}: {event['object'].get('message')}")
                        item = event["object"]
                        self._version = item["metadata"]["resourceVersion"]
                        if event["type"] in ("ADDED", "MODIFIED"):
                            self._take(now, item)
            except ApiError:
                time.sleep(0.5)


class Reports:
    """What nodes report to enforce, and since when."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self._since: dict[str, dict[str, list[tuple[float, int]]]] = {node: {} for node in nodes}
        self._wake = threading.Condition()

    def take(self, now: float, item: Mapping[str, Any]) -> None:
        observed = (item.get("status") or {}).get("observed") or {}
        with self._wake:
            of_node = self._since.get(item["metadata"]["name"])
            if of_node is not None:
                for resource, version in observed.items():
                    of_node.setdefault(resource, []).append((now, int(version)))
            self._wake.notify_all()

    def everywhere(self, resource: str, version: int) -> float:
        """When the last node said that it enforces ``version``. Raises TimeoutError."""
        with self._wake:
            if not self._wake.wait_for(lambda: self._last(resource, version) is not None, PATIENCE):
                raise TimeoutError(f"not every node says within {PATIENCE:.0f} s that it enforces {resource}")
            found = self._last(resource, version)
            assert found is not None
            return found

    def _last(self, resource: str, version: int) -> float | None:
        firsts = [
            next((when for when, said in of_node.get(resource, ()) if said >= version), None)
            for of_node in self._since.values()
        ]
        times = [first for first in firsts if first is not None]
        return max(times) if len(times) == len(firsts) else None


class Watch:
    """When pods got other policies, as the kernel has it."""

    def __init__(self, maps: Mapping[str, kernel.NodeMaps], pods: Sequence[Pod]) -> None:
        self._maps = maps
        self._pods = pods
        self._before = {pod: maps[pod.node].state(pod.address) for pod in pods}

    def wait(self) -> dict[str, float]:
        """When the last pod of each node changed. Raises TimeoutError."""
        left, ends = set(self._pods), {}
        deadline = time.monotonic() + PATIENCE
        while left:
            now = time.monotonic()
            for pod in [pod for pod in left if self._changed(pod)]:
                left.discard(pod)
                ends[pod.node] = now
            if now > deadline:
                names = sorted({pod.node for pod in left})
                raise TimeoutError(f"pods on {', '.join(names)} have no new policy after {PATIENCE:.0f} s")
            time.sleep(LOOK_SECONDS)
        return ends

    def _changed(self, pod: Pod) -> bool:
        now, before = self._maps[pod.node].state(pod.address), self._before[pod]
        return now.policy != before.policy and now.revision != before.revision


def agents(lab: Lab) -> list[float]:
    """How long each agent took for its last change: from taking it to having it in the kernel."""
    found = []
    for node in lab.nodes:
        text = machines.ssh(lab, node, ["podwire", "status", "-o", "json"], check=False, timeout=20).stdout
        with contextlib.suppress(ValueError, KeyError):
            found.append(float(json.loads(text)["policies"]["last_change_seconds"]))
    return found


def figures(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {
        "p50_ms": round(median(seconds) * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "worst_ms": round(max(seconds) * 1000, 1),
    }


class Measurement:
    """Policies in a namespace, one after the other."""

    def __init__(self, lab: Lab, client: KubeClient, namespace: str, pods: Sequence[Pod]) -> None:
        self._lab, self._client, self._namespace, self._pods = lab, client, namespace, pods
        self._told: dict[str, float] = {}
        self._reports = Reports(lab.nodes)
        self._maps = kernel.find({node: lab.address(node) for node in lab.nodes})
        Follower(client, NODE_ENDPOINTS, self._reports.take)
        for resource, group in GROUPS.items():
            Follower(client, f"{group}/namespaces/{namespace}/{resource}", self._tell)
        self.taken: dict[str, list[float]] = {
            name: [] for name in ("stored", "told", "first_node", "in_force", "reported", "agent")
        }

    def _tell(self, now: float, item: Mapping[str, Any]) -> None:
        self._told.setdefault(item["metadata"]["name"], now)

    def one(self, number: int) -> None:
        """Create policy ``number`` and note when what happened. Raises ApiError, TimeoutError, or
        RuntimeError when pods have a new policy map that is not this policy's."""
        resource, body = policy(number)
        pods = [pod for pod in self._pods if pod.app == selected(number)]
        watch = Watch(self._maps, pods)
        start = time.monotonic()
        path = f"{GROUPS[resource]}/namespaces/{self._namespace}/{resource}"
        version = int(self._client.create(path, body)["metadata"]["resourceVersion"])
        stored = time.monotonic()
        ends = watch.wait()
        for pod in pods:
            if FIRST_PORT + number not in self._maps[pod.node].ports(pod.address):
                raise RuntimeError(f"the new policy map of {pod.address} is not that of policy {number}")
        times = {
            "stored": stored,
            "first_node": min(ends.values()),
            "in_force": max(ends.values()),
            "reported": self._reports.everywhere(resource, version),
            "told": self._told.get(body["metadata"]["name"], stored),
        }
        for name, when in times.items():
            self.taken[name].append(when - start)
        if number % ASK_EVERY == ASK_EVERY - 1:
            self.taken["agent"] += agents(self._lab)


def run(lab: Lab, pods: int = PODS, policies: int = POLICIES) -> dict[str, Any]:
    """Return all figures. Raises ApiError, TimeoutError or RuntimeError."""
    client = KubeClient(lab.state / "kubeconfig")
    with running(client, lab.nodes, pods) as (namespace, started):
        time.sleep(SETTLE_SECONDS)
        measurement = Measurement(lab, client, namespace, started)
        for number in range(policies):
            measurement.one(number)
            time.sleep(random.uniform(0.2, 0.5))  # noqa: S311 - no lockstep with the agents' own intervals
    taken = measurement.taken
    return {
        "nodes": len(lab.nodes),
        "pods": pods,
        "policies": policies,
        "load": os.getloadavg()[0],
        **{name: figures(values) for name, values in taken.items()},
        "in_force_by_form": {
            each: figures([taken["in_force"][number] for number in range(policies) if form(number) == each])
            for each in FORMS
        },
        "seconds": {name: [round(value, 4) for value in values] for name, values in taken.items()},
        "targets": TARGETS,
    }
