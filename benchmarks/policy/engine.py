"""The policy engine alone, without kernel and API: how long 500 policies over 1,000 identities take for the
pods of one node, and how long a change takes. Prints JSON; exit status 1: a target was missed.

``python -m benchmarks.policy.engine``; needs no rights. Seconds throughout: by the clock, and of processor
time, which is what the clock would say on a machine that does nothing else, because the engine is one thread
that waits for nothing. Targets are for the latter."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from statistics import median
from typing import Any, NamedTuple

from podwire.policy import parse_cilium, parse_kubernetes
from podwire.policy.engine import PolicyEngine
from podwire.policy.identity import FIRST, LOCAL_FIRST
from podwire.policy.labels import pod_labels
from podwire.policy.model import Labels, Policy, Subject

NAMESPACES = 20
APPS = 50
POLICIES = 500
CLUSTERWIDE = 20
PODS = 110
"""Of the node; kubelet's own limit. Each with an identity of its own, the worst case."""
ROUNDS = 20
TARGETS = {"full": 5.0, "change": 0.2}
PORTS = frozenset({("http", 6, 8080), ("metrics", 6, 9090)})


def labels_of(number: int) -> Labels:
    """Labels of the pods of an identity, 0 to 999."""
    space, app = divmod(number, APPS)
    own = {"app": f"app-{app}", "tier": f"tier-{app % 5}", "track": "stable" if app % 2 else "canary"}
    return pod_labels(own, f"space-{space}", {"team": f"team-{space % 5}"})


def tcp(*ports: int | str) -> dict[str, Any]:
    return {"ports": [{"port": str(port), "protocol": "TCP"} for port in ports]}


def cilium(number: int) -> dict[str, Any]:
    """A CiliumNetworkPolicy as an application has it: peers by app, by team, from anywhere, and prefixes."""
    space, app = number % NAMESPACES, number // NAMESPACES
    team = {"k8s:io.cilium.k8s.namespace.labels.team": f"team-{number % 5}"}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": f"space-{space}"},
        "spec": {
            "endpointSelector": {"matchLabels": {"tier": f"tier-{app % 5}"}},
            "ingress": [
                {"fromEndpoints": [{"matchLabels": {"app": f"app-{app}"}}], "toPorts": [tcp(8080, 8443)]},
                {"fromEndpoints": [{"matchLabels": team}], "toPorts": [tcp(9000 + number % 7, "metrics")]},
                {"fromEntities": ["remote-node"], "toPorts": [tcp(10250)]},
            ],
            "egress": [
                {"toEndpoints": [{"matchLabels": {"app": f"app-{(app + 1) % APPS}"}}]},
                {
                    "toCIDRSet": [{"cidr": f"198.{18 + number % 2}.{number % 256}.0/24",
                                   "except": [f"198.{18 + number % 2}.{number % 256}.128/28"]}],
                    "toPorts": [tcp(443)],
                },
            ],
            "egressDeny": [
                {"toEndpoints": [{"matchLabels": {"track": "canary", **team}}], "toPorts": [tcp(22)]},
            ],
        },
    }  # fmt: skip


def kubernetes(number: int) -> dict[str, Any]:
    """A NetworkPolicy with a range of ports and a block."""
    space, app = number % NAMESPACES, number // NAMESPACES
    block = f"10.{number % 256}"
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"policy-{number}", "namespace": f"space-{space}"},
        "spec": {
            "podSelector": {"matchLabels": {"app": f"app-{app % APPS}"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {
                    "from": [
                        {"namespaceSelector": {"matchLabels": {"team": f"team-{number % 5}"}}},
                        {"ipBlock": {"cidr": f"{block}.0.0/16", "except": [f"{block}.1.0/24"]}},
                    ],
                    "ports": [{"port": 8000, "endPort": 8100, "protocol": "TCP"}],
                }
            ],
            "egress": [{"ports": [{"port": "http"}]}],
        },
    }  # fmt: skip


def clusterwide(number: int) -> dict[str, Any]:
    """A CiliumClusterwideNetworkPolicy for all pods."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": f"policy-{number}"},
        "spec": {
            "endpointSelector": {},
            "ingress": [
                {"fromEndpoints": [{"matchLabels": {"app": f"app-{number}"}}], "toPorts": [tcp(9100)]}
            ],
            "ingressDeny": [{"fromCIDR": [f"203.0.113.{number}/32"]}],
            "egress": [{"toEndpoints": [{}], "toPorts": [tcp(53 + number)]}],
        },
    }


def policies() -> list[Policy]:
    """All policies, parsed as the agent does it."""
    found = [parse_cilium.clusterwide_network_policy(clusterwide(number)) for number in range(CLUSTERWIDE)]
    for number in range(CLUSTERWIDE, POLICIES):
        if number % 2:
            found.append(parse_cilium.network_policy(cilium(number)))
        else:
            found.append(parse_kubernetes.network_policy(kubernetes(number)))
    for policy in found:
        if policy.errors:
            raise RuntimeError(f"{policy.origin.key}: {policy.errors}")
    return found


class Node:
    """An engine with all identities and the pods of one node."""

    def __init__(self, given: list[Policy]) -> None:
        self.engine = PolicyEngine()
        self.subjects = [
            Subject(FIRST + number, labels_of(number), PORTS)
            for number in range(0, NAMESPACES * APPS, NAMESPACES * APPS // PODS)
        ][:PODS]
        for number in range(NAMESPACES * APPS):
            self.engine.world.set_identity(FIRST + number, labels_of(number))
            self.engine.world.set_named_ports(FIRST + number, PORTS)
        self._numbers: dict[IPv4Network, int] = {}
        for policy in given:
            self.engine.set_policy(policy)
        self.entries = self.settle()

    def settle(self) -> int:
        """Do what the agent does after a change, but for writing maps; return the number of entries."""
        for prefix in sorted(self.engine.wanted_prefixes() - self._numbers.keys()):
            self._numbers[prefix] = LOCAL_FIRST + len(self._numbers)
            self.engine.world.set_cidr(prefix, self._numbers[prefix])
        return sum(compiled.size for compiled in self.engine.update(self.subjects).values())


class Took(NamedTuple):
    """Seconds."""

    clock: float
    processor: float


def seconds(action: Callable[[], object]) -> Took:
    """Return how long an action takes."""
    start, used = time.perf_counter(), time.process_time()
    action()
    return Took(time.perf_counter() - start, time.process_time() - used)


def changed(policy: Policy) -> Policy:
    """Return a policy without its last entry."""
    (rule,) = policy.rules
    return replace(policy, rules=(replace(rule, entries=rule.entries[:-1]),))


def change_policy(node: Node, policy: Policy) -> list[Took]:
    """Return the times of a change of one policy, back and forth."""

    def set_to(given: Policy) -> Took:
        return seconds(lambda: (node.engine.set_policy(given), node.settle()))

    return [took for _ in range(ROUNDS // 2) for took in (set_to(changed(policy)), set_to(policy))]


def relabel(node: Node) -> list[Took]:
    """Return the times of a change of one identity's labels."""

    def become(number: int) -> Took:
        return seconds(lambda: (node.engine.world.set_identity(FIRST + 7, labels_of(number)), node.settle()))

    return [took for _ in range(ROUNDS // 2) for took in (become(8), become(7))]


def new_pod(node: Node) -> list[Took]:
    """Return the times that one more pod takes, with an identity that is not new."""

    def add(number: int) -> Took:
        node.subjects.append(Subject(FIRST + number, labels_of(number), PORTS))
        return seconds(node.settle)

    return [add(number) for number in range(1, 1 + ROUNDS)]


def figures(times: list[Took]) -> dict[str, float]:
    return {
        "median": round(median(took.clock for took in times), 4),
        "worst": round(max(took.clock for took in times), 4),
        "processor": round(median(took.processor for took in times), 4),
    }


def run() -> dict[str, Any]:
    """Return all figures."""
    given = policies()
    nodes: list[Node] = []

    def start() -> None:
        nodes[:] = [Node(given)]

    full = []
    for _ in range(3):
        nodes.clear()  # an agent has one engine; what lives beside it makes collecting garbage dearer
        full.append(seconds(start))
    (node,) = nodes
    return {
        "identities": NAMESPACES * APPS,
        "policies": len(given),
        "pods": len(node.subjects),
        "entries": node.entries,
        "parse": round(seconds(policies).clock, 4),
        "full": figures(full),
        "policy": figures(change_policy(node, given[-1])),
        "clusterwide_policy": figures(change_policy(node, given[0])),
        "labels": figures(relabel(node)),
        "pod": figures(new_pod(node)),
        "targets": TARGETS,
    }


def measured() -> dict[str, Any]:
    """Return all figures, and whether they are what they should be."""
    result = run()
    met = result["full"]["processor"] <= TARGETS["full"] and all(
        result[change]["processor"] <= TARGETS["change"]
        for change in ("policy", "clusterwide_policy", "labels", "pod")
    )
    return result | {"met": met}


def main() -> int:
    result = measured()
    print(json.dumps(result, indent=2))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
