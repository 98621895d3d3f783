"""Cases of the semantics, as users write policies: each connection is judged at both of its ends, by the
datapath's look-ups in compiled maps and by the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest
import yaml

from podwire.policy import labels as security
from podwire.policy import parse_cilium, parse_kubernetes
from podwire.policy.compile import compile_policy
from podwire.policy.model import Direction, Enforcement, Policy, Rule

from .cluster import Cluster, Judges, reserved
from .reference import KubernetesService, Party

TEAMS = {"alpha": "red", "beta": "blue"}
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1}
PORTS = frozenset({("http", 6, 80), ("alt", 6, 81)})
PING = "icmp/8"


def pod(
    address: str, namespace: str, app: str, ports: frozenset[tuple[str, int, int]] = frozenset()
) -> Party:
    labels = security.pod_labels({"app": app}, namespace, {"team": TEAMS[namespace]})
    return Party(IPv4Address(address), labels, ports)


CLUSTER = Cluster(
    {
        "web": pod("10.1.0.1", "alpha", "web", PORTS),
        "cli": pod("10.1.0.2", "alpha", "cli"),
        "far": pod("10.2.0.2", "alpha", "cli"),
        "beta/cli": pod("10.2.0.3", "beta", "cli"),
        "job": pod("10.2.0.4", "beta", "job"),
        "node1": reserved("172.16.0.1", "host"),
        "node2": reserved("172.16.0.2", "remote-node"),
        "api": reserved("172.16.0.3", "kube-apiserver", "remote-node"),
        "health": reserved("10.1.0.9", "health"),
        "E1": reserved("192.0.2.10", "world"),
        "E1+1": reserved("192.0.2.11", "world"),
        "E2": reserved("198.51.100.7", "world"),
    },
    (
        KubernetesService("alpha", "outer", {}, {}, frozenset({IPv4Address("198.51.100.7")})),
        KubernetesService("alpha", "web", {"k8s:tier": "front"}, {"app": "web"}, frozenset()),
    ),
)


def cnp(spec: str, subject: str = "{matchLabels: {app: web}}") -> Policy:
    return _cilium(parse_cilium.network_policy, spec, subject, {"name": "test", "namespace": "alpha"})


def ccnp(spec: str, subject: str = "{matchLabels: {app: web}}") -> Policy:
    return _cilium(parse_cilium.clusterwide_network_policy, spec, subject, {"name": "test"})


def _cilium(parse: Callable[[object], Policy], spec: str, subject: str, metadata: dict[str, str]) -> Policy:
    kind = "CiliumNetworkPolicy" if "namespace" in metadata else "CiliumClusterwideNetworkPolicy"
    parts = yaml.safe_load(spec)
    whole = [{"endpointSelector": yaml.safe_load(subject), **part} for part in parts]
    policy = parse({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "specs": whole})
    assert not policy.errors, policy.errors
    return policy


def knp(spec: str, app: str = "web") -> Policy:
    policy = parse_kubernetes.network_policy(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "test", "namespace": "alpha"},
            "spec": {"podSelector": {"matchLabels": {"app": app}}, **yaml.safe_load(spec)},
        }
    )
    assert not policy.errors, policy.errors
    return policy


CLI = "{matchLabels: {app: cli}}"
FROM_CLI = "fromEndpoints: [{matchLabels: {app: cli}}]"
NAMESPACE = "k8s:io.kubernetes.pod.namespace"
FROM_BETA = f"fromEndpoints: [{{matchLabels: {{'{NAMESPACE}': beta}}}}]"


def ports(*written: str) -> str:
    """toPorts with items such as ``80/TCP``."""
    items = ", ".join(
        f"{{port: '{port}', protocol: {protocol}}}" if protocol else f"{{port: '{port}'}}"
        for port, _, protocol in (one.partition("/") for one in written)
    )
    return f"toPorts: [{{ports: [{items}]}}]"


@dataclass(frozen=True)
class Case:
    """Policies and what they make of connections: ``from > to [port]: verdict``, one a line."""

    policies: tuple[Policy, ...]
    expected: str
    enforcement: Enforcement = Enforcement.DEFAULT


def case(name: str, expected: str, *policies: Policy, mode: Enforcement = Enforcement.DEFAULT) -> object:
    return pytest.param(Case(policies, expected, mode), id=name)


def check(of: Case) -> None:
    """Judge all connections of a case."""
    rules = [rule for policy in of.policies for rule in policy.rules]
    for line in of.expected.split(";"):
        connection, _, verdict = line.partition(":")
        source, _, rest = connection.partition(">")
        target, _, port = rest.strip().partition(" ")
        expected = [0 if one.strip() == "ok" else int(one) for one in verdict.split("then")]
        found = judge(of, rules, source.strip(), target, port or "tcp/80")
        if len(expected) == 1:
            found = [next((one for one in found if one), 0)]
        assert found == expected, line.strip()


def judge(of: Case, rules: list[Rule], source: str, target: str, port: str) -> list[int]:
    """Judge egress at the source and ingress at the target, as far as they are pods."""
    protocol, _, number = port.partition("/")
    world = CLUSTER.world(rules)
    verdicts = []
    for name, peer, direction in (
        (source, target, Direction.EGRESS),
        (target, source, Direction.INGRESS),
    ):
        if any(key.startswith("k8s:") for key in CLUSTER.parties[name].labels):
            compiled = compile_policy(CLUSTER.subject(name), rules, world, of.enforcement)
            judges = Judges(CLUSTER, name, tuple(rules), of.enforcement, compiled)
            about = direction, peer, PROTOCOLS[protocol], int(number)
            found = judges.by_datapath(*about).verdict
            assert found == judges.by_reference(*about)
            verdicts.append(found)
    return verdicts
