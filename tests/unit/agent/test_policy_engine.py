"""The engine, fed with whole states: it ends where a fresh one does."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

from podwire.agent.identity_view import LocalEndpoint, World
from podwire.agent.policy_engine import NodeEngine
from podwire.policy import parse_cilium
from podwire.policy.model import Direction, MapKey, Policy

WEB = {"k8s:app": "web", "k8s:io.kubernetes.pod.namespace": "alpha"}
CLI = {"k8s:app": "cli", "k8s:io.kubernetes.pod.namespace": "alpha"}
ENDPOINT = LocalEndpoint("c-eth0", "alpha", "web", "10.1.0.2", 300, WEB, frozenset())
WORLD = World(identities={300: WEB, 301: CLI}, local={"c-eth0": ENDPOINT}, complete=True)
NET, INNER = IPv4Network("192.0.2.0/24"), IPv4Network("192.0.2.128/25")
FIRST, SECOND = 0x01000001, 0x01000002


def policy(*ingress: dict[str, Any], name: str = "p") -> Policy:
    found = parse_cilium.network_policy(
        {
            "metadata": {"name": name, "namespace": "alpha"},
            "spec": {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": list(ingress)},
        }
    )
    assert not found.errors
    return found


def allowed(engine: NodeEngine, world: World = WORLD) -> set[int]:
    """Identities that an entry of the endpoint's ingress names."""
    entries = engine.compile(world.local)["c-eth0"].entries
    return {key.identity for key in entries if key.direction is Direction.INGRESS}


def test_prefixes_of_a_policy_are_known_before_it_is_taken() -> None:
    engine = NodeEngine()
    policies = {"p": policy({"fromCIDR": [str(NET)]})}
    assert engine.prefixes(policies) == {NET}
    engine.set_world(WORLD, {})
    assert allowed(engine) == {0}  # it is not in force


def test_a_narrower_identity_is_allowed_wherever_the_wider_one_is() -> None:
    engine = NodeEngine()
    engine.set_policies({"p": policy({"fromCIDR": [str(NET)]})})
    engine.set_world(WORLD, {NET: FIRST})
    assert allowed(engine) == {1, FIRST}
    engine.set_world(WORLD, {NET: FIRST, INNER: SECOND})
    assert allowed(engine) == {1, FIRST, SECOND}
    engine.set_world(WORLD, {NET: FIRST})
    assert allowed(engine) == {1, FIRST}


def test_identities_come_and_go() -> None:
    engine = NodeEngine()
    engine.set_policies({"p": policy({"fromEndpoints": [{"matchLabels": {"app": "cli"}}]})})
    engine.set_world(WORLD, {})
    assert allowed(engine) == {1, 301}
    engine.set_world(replace(WORLD, identities={300: WEB, 302: CLI}), {})
    assert allowed(engine) == {1, 302}


def test_policies_come_change_and_go() -> None:
    engine = NodeEngine()
    engine.set_world(WORLD, {})
    engine.set_policies({"p": policy({})})
    assert allowed(engine) == {1}
    engine.set_policies({"p": policy({}), "q": policy({"fromEntities": ["world"]}, name="q")})
    assert allowed(engine) == {1, 2}
    engine.set_policies({})
    compiled = engine.compile(WORLD.local)["c-eth0"]
    assert not compiled.enforced
    assert MapKey(Direction.INGRESS, 0) in compiled.entries


def test_an_api_server_outside_the_cluster_is_known_by_its_labels() -> None:
    engine = NodeEngine()
    engine.set_policies({"p": policy({"fromEntities": ["kube-apiserver"]})})
    server = IPv4Network("203.0.113.5/32")
    labels = {"reserved:world": "", "cidr:203.0.113.5/32": "", "reserved:kube-apiserver": ""}
    world = replace(WORLD, identities={**WORLD.identities, FIRST: labels}, api_servers={server: FIRST})
    engine.set_world(world, {})
    assert allowed(engine, world) == {1, 7, FIRST}
    engine.set_world(WORLD, {})
    assert allowed(engine) == {1, 7}


def test_who_a_policy_selects() -> None:
    engine = NodeEngine()
    engine.set_world(WORLD, {})
    first = policy({})
    engine.set_policies({first.origin.key: first})
    engine.compile(WORLD.local)
    assert engine.subjects_of(first.origin.key, WORLD.local) == ["c-eth0"]
    assert engine.subjects_of("CiliumNetworkPolicy/alpha/none", WORLD.local) == []
