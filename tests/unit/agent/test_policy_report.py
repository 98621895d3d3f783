"""Policies, maps and identities as the API shows them."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from podwire.agent.identity_view import LocalEndpoint, RemoteEndpoint, World
from podwire.agent.policy_controller import Assigned
from podwire.agent.policy_report import (
    endpoint_policy,
    identity_list,
    labels_of,
    map_ports,
    peer_text,
    policy_details,
    policy_map,
    port_text,
)
from podwire.agent.policy_source import take
from podwire.agent.policy_store import PolicyStore
from podwire.policy import parse_cilium, selectors
from podwire.policy.compile import compile_policy
from podwire.policy.identity import CLASS_FIRST
from podwire.policy.model import (
    Block,
    BlockKey,
    Cidr,
    Compiled,
    Direction,
    Endpoints,
    Entity,
    MapKey,
    MapValue,
    NamedPort,
    Peer,
    Port,
    PortRange,
    Selector,
    Service,
    Subject,
)
from podwire.policy.world import World as EngineWorld

IN, OUT = Direction.INGRESS, Direction.EGRESS
NET = IPv4Network("192.0.2.0/24")
APP = selectors.from_labels({"k8s:app": "web"})


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (Endpoints(APP), "endpoints k8s:app=web"),
        (Entity("world"), "entity world"),
        (Cidr(NET, (IPv4Network("192.0.2.8/32"),)), "cidr 192.0.2.0/24 except 192.0.2.8/32"),
        (Block(NET), "ipBlock 192.0.2.0/24"),
        (Service("alpha", "db"), "service alpha/db"),
        (Service("", selector=Selector()), "services everything in all namespaces"),
    ],
)
def test_peers_in_words(peer: Peer, text: str) -> None:
    assert peer_text(peer) == text


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (PortRange(6, 80, 80), "80/TCP"),
        (PortRange(17, 8000, 8080), "8000-8080/UDP"),
        (PortRange(132), "SCTP"),
        (PortRange(1, 8, 8), "ICMP type 8"),
        (NamedPort(6, "http"), "http/TCP"),
    ],
)
def test_ports_in_words(port: Port, text: str) -> None:
    assert port_text(port) == text


@pytest.mark.parametrize(
    ("key", "text"),
    [(MapKey(IN, 1), "*"), (MapKey(IN, 1, 6, 80, 16), "80"), (MapKey(IN, 1, 6, 8000, 13), "8000-8007")],
)
def test_ports_of_a_map_s_entry(key: MapKey, text: str) -> None:
    assert map_ports(key) == text


def test_a_map_in_words() -> None:
    entries = {
        MapKey(IN, 0, 6, 80, 16): MapValue(rule=1),
        MapKey(IN, 300): MapValue(deny=True, rule=2),
        MapKey(IN, CLASS_FIRST): MapValue(rule=1),
    }
    blocks = {BlockKey(IN, NET): CLASS_FIRST, BlockKey(OUT, IPv4Network("10.0.0.0/8")): CLASS_FIRST}
    compiled = Compiled(frozenset({IN}), entries, blocks, ("a", "b"))
    found = {item["identity"]: item for item in policy_map(compiled, lambda number: [f"l{number}"])}
    assert found[0]["labels"] == ["everybody"]
    assert (found[0]["match"], found[0]["rule"], found[0]["ports"]) == ("L4-Only", "a", "80")
    assert (found[300]["verdict"], found[300]["labels"], found[300]["rule"]) == ("deny", ["l300"], "b")
    assert found[CLASS_FIRST]["labels"] == ["addresses in 192.0.2.0/24"]


def test_what_is_enforced_of_an_endpoint() -> None:
    compiled = compile_policy(Subject(300, {}), [], EngineWorld())
    closed_in = Compiled(frozenset({IN}), {MapKey(IN, 1): MapValue()}, {})
    shown = endpoint_policy(Assigned(300, 5, closed_in, 3), audit=False)
    assert (shown["ingress"], shown["egress"], shown["entries"]) == ("Enabled", "Disabled", 1)
    assert endpoint_policy(Assigned(300, 5, closed_in, 3), audit=True)["ingress"] == "Audit"
    assert endpoint_policy(Assigned(300, 0, compiled, 3), audit=True)["ingress"] == "Disabled"
    closed = endpoint_policy(Assigned(300, 1, compiled, 3, "too large"), audit=False)
    assert (closed["ingress"], closed["egress"], closed["problem"]) == ("Enabled", "Enabled", "too large")
    assert endpoint_policy(None, audit=False)["number"] is None


def test_identities_with_everybody_who_has_them() -> None:
    local = LocalEndpoint("c", "a", "p", "10.1.0.2", 300, {}, frozenset())
    world = World(
        identities={1: {"reserved:host": "", "reserved:kube-apiserver": ""}, 300: {"k8s:app": "web"}},
        local={"c": local},
        remote={"10.1.1.2": RemoteEndpoint("n", "a", "q", "10.1.1.2", 300, frozenset())},
        nodes={"10.0.0.1": 1},
    )
    found = {item["identity"]: item for item in identity_list(world, {NET: 0x01000001})}
    assert found[300]["addresses"] == ["10.1.0.2", "10.1.1.2"]
    assert found[300]["labels"] == ["k8s:app=web"]
    assert found[1]["labels"] == ["reserved:host", "reserved:kube-apiserver"]
    assert (found[0x01000001]["kind"], found[0x01000001]["prefix"]) == ("cidr", "192.0.2.0/24")
    assert 0 not in found
    assert labels_of(0x01000001, world, {NET: 0x01000001}) == ["cidr:192.0.2.0/24", "reserved:world"]
    assert labels_of(0x01000002, world, {}) == []
    assert labels_of(2, world, {}) == ["reserved:world"]


def test_a_policy_with_its_rules() -> None:
    value = {
        "metadata": {"name": "web", "namespace": "alpha", "generation": 4, "resourceVersion": "9"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"fromEntities": ["world"], "toPorts": [{"ports": [{"port": "80"}]}]}, {}],
        },
    }
    store = PolicyStore()
    store.set("k", take(value, kind="CiliumNetworkPolicy", parse=parse_cilium.network_policy))
    known = store.get("k")
    assert known is not None
    shown = policy_details(known, ["alpha/web-0"])
    assert (shown["key"], shown["generation"], shown["rules"]) == ("CiliumNetworkPolicy/alpha/web", 4, 1)
    (rule,) = shown["rules_in_force"]
    assert rule["default_deny"] == ["ingress"]
    first = rule["entries"][0]
    assert (first["place"], first["peers"]) == ("spec.ingress[0]", ["entity world"])
    assert first["ports"] == ["80/TCP", "80/UDP", "80/SCTP"]
