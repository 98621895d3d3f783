"""Who is who, worked out from objects: nothing before enough is known, nothing taken away by what is not."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from podwire.agent.identity_census import CLAIM, Census, Hosts
from podwire.agent.identity_objects import IdentityObject, NodeEndpointsObject, PodObject
from podwire.agent.identity_view import RemoteEndpoint, World
from podwire.agent.model import HEALTH_CONTAINER_ID, Endpoint, NodeInfo
from podwire.net.values import NetnsId
from podwire.policy.labels import pod_labels, text

NO_PORTS = frozenset[tuple[str, int, int]]()
HTTP = frozenset({("http", 6, 8080)})


def endpoint(name: str, number: int, **more: object) -> Endpoint:
    value = Endpoint(
        f"c-{name}", "eth0", f"/run/netns/{name}", NetnsId(4, number), f"10.1.1.{number}",
        "02:00:00:00:00:01", f"lxc{name}", 100 + number, number, pod_namespace="ns", pod_name=name,
    )  # fmt: skip
    return replace(value, **more)  # type: ignore[arg-type]


def pod(name: str, *uids: str, host: bool = False, finished: bool = False, **labels: str) -> PodObject:
    return PodObject("ns", name, frozenset(uids), labels, "default", HTTP, host, finished)


def remote(node: str, address: str, identity: int = 500) -> RemoteEndpoint:
    return RemoteEndpoint(node, "ns", "far", address, identity, NO_PORTS)


NODES = (
    NodeInfo("self", "10.1.1.0/24", ("192.0.2.1",), uid="u1"),
    NodeInfo("other", "10.1.2.0/24", ("192.0.2.2",)),
    NodeInfo("third", "10.1.3.0/24", ("192.0.2.3",)),
)


@pytest.fixture
def census() -> Census:
    """Everything is known, and there is nothing."""
    census = Census("self")
    census.take_namespaces([("ns", {"team": "red"})], True)
    census.take_pods([], True)
    census.take_identities([], True)
    census.take_node_endpoints([], True)
    census.hosts = Hosts(NODES, frozenset({"192.0.2.1"}))
    return census


WEB = pod_labels({"app": "web"}, "ns", {"team": "red"})
WEB_IDENTITY = IdentityObject(4711, WEB, "1")


def test_labels_without_a_number_are_asked_for_once(census: Census) -> None:
    census.take_pods([("ns/a", pod("a", app="web")), ("ns/b", pod("b", app="web"))], True)
    census.take_local([endpoint("a", 2), endpoint("b", 3)])
    decisions = census.decide(0.0)
    assert decisions.identities == {}
    assert [(key, item.labels, item.present) for key, item in decisions.wanted.items()] == [
        (text(WEB), WEB, 0)
    ]
    census.claim(WEB_IDENTITY, 0.0)
    decisions = census.decide(0.0)
    assert decisions.wanted == {}
    assert decisions.identities == {"c-a-eth0": (4711, WEB), "c-b-eth0": (4711, WEB)}
    census.give(decisions.identities)
    assert census.decide(0.0) == ({}, {})


def test_pods_whose_interface_will_be_asked_for_are_numbered_in_advance(census: Census) -> None:
    pods = [pod("soon", app="web"), pod("host", host=True, app="h"), pod("done", finished=True, app="d")]
    census.take_pods([(f"ns/{item.name}", item) for item in pods], True)
    assert [item.labels for item in census.decide(0.0).wanted.values()] == [WEB]


def test_nothing_is_asked_for_before_all_numbers_are_known() -> None:
    census = Census("self")
    census.take_namespaces([("ns", {})], True)
    census.take_pods([("ns/a", pod("a"))], True)
    census.take_local([endpoint("a", 2)])
    assert census.decide(0.0) == ({}, {})
    census.take_identities([], True)
    assert census.decide(0.0) == ({}, {})
    census.take_node_endpoints([], True)
    assert census.decide(0.0).wanted


def test_an_idle_number_is_touched_before_it_is_used(census: Census) -> None:
    census.take_identities([("4711", WEB_IDENTITY)], True)
    census.take_pods([("ns/a", pod("a", app="web"))], True)
    census.take_local([endpoint("a", 2)])
    decisions = census.decide(0.0)
    assert decisions.identities == {}
    assert [item.present for item in decisions.wanted.values()] == [4711]
    census.claim(WEB_IDENTITY._replace(version="2"), 0.0)
    assert census.decide(CLAIM - 1).identities
    assert not census.decide(CLAIM + 1).identities


def test_a_number_that_somebody_uses_needs_no_touch(census: Census) -> None:
    census.take_identities([("4711", WEB_IDENTITY)], True)
    there = NodeEndpointsObject("other", (remote("other", "10.1.2.9", 4711),))
    census.take_node_endpoints([("other", there)], True)
    census.take_pods([("ns/a", pod("a", app="web"))], True)
    census.take_local([endpoint("a", 2)])
    assert census.decide(0.0) == ({"c-a-eth0": (4711, WEB)}, {})


def test_a_number_that_was_deleted_while_it_is_needed_is_asked_for_again(census: Census) -> None:
    census.take_pods([("ns/a", pod("a", app="web"))], True)
    census.take_local([endpoint("a", 2, identity=4711, labels=WEB)])
    census.take_identities([("4711", None)], True)
    assert [item.present for item in census.decide(0.0).wanted.values()] == [4711]


def test_another_pod_of_the_same_name_is_another_one(census: Census) -> None:
    census.take_identities([("4711", WEB_IDENTITY)], True)
    census.claim(WEB_IDENTITY, 0.0)
    census.take_pods([("ns/a", pod("a", "new", app="web"))], True)
    census.take_local([endpoint("a", 2, pod_uid="old")])
    assert census.decide(0.0).identities == {}
    census.take_pods([("ns/a", pod("a", "mirror", "old", app="web"))], True)  # a static pod and its mirror
    assert census.decide(0.0).identities


@pytest.mark.parametrize("gone", ["pod", "namespace"])
def test_what_is_not_known_any_more_changes_no_identity(census: Census, gone: str) -> None:
    census.claim(WEB_IDENTITY, 0.0)
    census.take_pods([("ns/a", pod("a", app="web"))], True)
    census.take_local([endpoint("a", 2, identity=4711, labels=WEB)])
    if gone == "pod":
        census.take_pods([("ns/a", None)], True)
    else:
        census.take_namespaces([("ns", None)], True)
    assert census.decide(0.0) == ({}, {})
    assert [item.identity for item in census.publication()] == [4711]


def test_labels_of_the_namespace_are_labels_of_its_pods(census: Census) -> None:
    census.take_pods([("ns/a", pod("a", app="web"))], True)
    census.take_local([endpoint("a", 2, identity=4711, labels=WEB)])
    census.take_namespaces([("ns", {"team": "blue"})], True)
    wanted = census.decide(0.0).wanted.values()
    assert [item.labels["k8s:io.cilium.k8s.namespace.labels.team"] for item in wanted] == ["blue"]
    assert [item.present for item in wanted] == [0]


def test_what_is_published(census: Census) -> None:
    health = endpoint("health", 1, container_id=HEALTH_CONTAINER_ID, pod_name="", pod_namespace="")
    census.take_pods([("ns/a", pod("a", app="web"))], True)
    census.take_local(
        [health, endpoint("a", 2, identity=4711), endpoint("new", 3), endpoint("old", 4, identity=3)]
    )
    found = {
        item.address: (item.identity, item.namespace, item.pod, item.named_ports)
        for item in census.publication()
    }
    assert found == {"10.1.1.1": (4, "", "", NO_PORTS), "10.1.1.2": (4711, "ns", "a", HTTP)}


def test_of_two_nodes_that_claim_an_address_the_one_with_its_range_has_it(census: Census) -> None:
    claims = {name: remote(name, "10.1.3.7") for name in ("other", "third", "self", "gone")}
    for name, item in claims.items():
        census.take_node_endpoints([(name, NodeEndpointsObject(name, (item,)))], True)
    assert census.remote() == {"10.1.3.7": claims["third"]}
    census.hosts = Hosts(NODES[:2], frozenset())
    assert census.remote() == {"10.1.3.7": claims["other"]}
    census.take_local([endpoint("a", 2, address="10.1.3.7")])
    assert census.remote() == {}


def test_the_world_says_who_is_who(census: Census) -> None:
    census.api_servers = frozenset({"192.0.2.1", "192.0.2.3", "203.0.113.9"})
    census.take_pods([("ns/a", pod("a", app="web"))], True)
    census.take_local([endpoint("a", 2, identity=4711, labels=WEB)])
    there = RemoteEndpoint("other", "ns", "far", "10.1.2.9", 4711, frozenset({("http", 6, 80)}))
    outside = IPv4Network("203.0.113.9/32")
    assert census.external_api_servers() == {outside}
    world = census.world(World(), {there.address: there}, {outside: 16777300})
    assert world.complete
    assert world.nodes == {"192.0.2.1": 1, "192.0.2.2": 6, "192.0.2.3": 7}
    assert world.identities[1] == {"reserved:host": "", "reserved:kube-apiserver": ""}
    assert world.identities[16777300] == {
        "reserved:world": "", "reserved:kube-apiserver": "", "cidr:203.0.113.9/32": "",
    }  # fmt: skip
    assert world.identities[4711] == WEB  # although the API has no such object
    assert 0 not in world.identities
    assert world.named_ports == {4711: HTTP | {("http", 6, 80)}}
    assert world.local["c-a-eth0"].labels == WEB
    again = census.world(world, {there.address: there}, {outside: 16777300})
    assert again == world
    for name in ("identities", "named_ports", "local", "remote", "nodes", "api_servers"):
        assert getattr(again, name) is getattr(world, name), name
