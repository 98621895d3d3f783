"""The desired state is a function of the cluster state; these are its laws."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from podwire.agent.desired import Endpoint4, Ipcache4, changed_slots, desired
from podwire.agent.model import (
    HEALTH_CONTAINER_ID,
    ClusterState,
    Endpoint,
    NodeInfo,
    PolicyAssignment,
    Standing,
    host_ifname,
    pod_mac,
)
from podwire.net.values import NetnsId, Route4


def endpoint(number: int) -> Endpoint:
    container = f"c{number}"
    return Endpoint(
        container, "eth0", f"/run/netns/{container}", NetnsId(4, number), f"10.1.0.{number}",
        pod_mac(container, "eth0"), host_ifname(container, "eth0"), 100 + number, number,
    )  # fmt: skip


def remote(number: int) -> NodeInfo:
    return NodeInfo(f"node{number}", f"10.1.{number}.0/24", (f"192.0.2.{number}",))


BASE = ClusterState(
    node_ip="192.0.2.200",
    node_ifindexes=(2,),
    host_addresses=("192.0.2.200", "198.51.100.1"),
    node_name="self",
    cluster_cidrs=("10.1.0.0/16",),
    service_cidrs=("10.152.183.0/24", "203.0.113.0/28"),
    nodes=(NodeInfo("self", "10.1.0.0/24", ("192.0.2.200",)),),
)
states = st.builds(
    lambda pods, nodes: replace(
        BASE, endpoints=tuple(map(endpoint, sorted(pods))), nodes=(*BASE.nodes, *map(remote, sorted(nodes)))
    ),
    st.sets(st.integers(2, 250)),
    st.sets(st.integers(1, 199)),
)


@given(states)
def test_every_pod_has_an_entry_and_a_route(state: ClusterState) -> None:
    want = desired(state)
    for pod in state.endpoints:
        assert want.endpoints4[pod.address] == Endpoint4(pod.host_ifindex, pod.slot, pod.mac)
        assert want.routes[f"{pod.address}/32"] == Route4(pod.host_ifindex, source=state.node_ip)
    assert len([e for e in want.endpoints4.values() if not e.host]) == len(state.endpoints)


@given(states)
def test_every_remote_node_has_a_route_and_nobody_else(state: ClusterState) -> None:
    want = desired(state)
    remote_routes = {prefix: route for prefix, route in want.routes.items() if route.gateway}
    others = [node for node in state.nodes if node.name != "self"]
    assert remote_routes == {
        node.pod_cidr: Route4(2, gateway=node.addresses[0], source=state.node_ip) for node in others
    }
    for node in others:
        assert node.pod_cidr
        assert want.ipcache4[node.pod_cidr].next_hop == node.addresses[0]
        assert want.ipcache4[f"{node.addresses[0]}/32"].node
    assert not want.problems


@given(states)
def test_order_of_input_does_not_matter(state: ClusterState) -> None:
    shuffled = replace(state, nodes=state.nodes[::-1], endpoints=state.endpoints[::-1])
    assert desired(shuffled) == desired(state)


@given(states)
def test_nothing_of_the_cluster_is_ever_masqueraded(state: ClusterState) -> None:
    assert all(value.cluster for value in desired(state).ipcache4.values())


@given(states)
def test_slots_are_not_shared(state: ClusterState) -> None:
    slots = [value.slot for value in desired(state).endpoints4.values() if not value.host]
    assert len(slots) == len(set(slots))
    assert 0 not in slots


@given(states)
def test_prefixes_are_canonical(state: ClusterState) -> None:
    want = desired(state)
    for prefix in (*want.ipcache4, *want.routes):
        assert str(ipaddress.IPv4Network(prefix)) == prefix


def test_own_podcidr_is_local_and_own_addresses_are_the_host() -> None:
    want = desired(BASE)
    assert want.ipcache4["10.1.0.0/24"] == Ipcache4(3, cluster=True, local=True)
    assert want.endpoints4["198.51.100.1"].host
    assert want.ipcache4["198.51.100.1/32"] == Ipcache4(1, cluster=True, node=True)
    assert want.ipcache4["10.152.183.0/24"].service
    assert want.ipcache4["203.0.113.0/28"].service
    assert "10.1.0.0/24" not in want.routes


def test_address_left_by_an_earlier_network_is_not_the_hosts() -> None:
    want = desired(replace(BASE, host_addresses=("192.0.2.200", "10.1.0.1")))
    assert "10.1.0.1" not in want.endpoints4
    assert "10.1.0.1/32" not in want.ipcache4
    assert want.endpoints4["192.0.2.200"].host


def test_devices_are_left_with_addresses_that_are_the_hosts() -> None:
    want = desired(
        replace(
            BASE,
            host_addresses=("192.0.2.200", "198.51.100.1", "10.1.0.1"),
            masquerade_addresses={3: "198.51.100.1", 4: "10.1.0.1"},
        )
    )
    assert want.masquerade4 == {"3": "198.51.100.1"}, "an address of the podCIDR is a pod's"


def test_pods_of_a_podcidr_that_has_changed_are_reported_and_stay() -> None:
    moved = replace(
        BASE, nodes=(NodeInfo("self", "10.1.77.0/24", ("192.0.2.200",)),), endpoints=(endpoint(2),)
    )
    want = desired(moved)
    assert "10.1.0.2" in want.endpoints4
    assert "1 endpoints have addresses outside podCIDR 10.1.77.0/24" in want.problems[0]


def test_overlapping_podcidr_is_reported_and_left_out() -> None:
    thief = NodeInfo("thief", "10.1.0.0/25", ("192.0.2.9",))
    want = desired(replace(BASE, nodes=(*BASE.nodes, thief)))
    assert "10.1.0.0/25" not in want.routes
    assert "overlaps 10.1.0.0/24 of node self" in want.problems[0]


def test_node_with_our_address_is_reported_and_left_out() -> None:
    twin = NodeInfo("twin", "10.1.9.0/24", ("192.0.2.200",))
    want = desired(replace(BASE, nodes=(*BASE.nodes, twin)))
    assert "10.1.9.0/24" not in want.routes
    assert want.ipcache4["192.0.2.200/32"].identity == 1
    assert "this node's address" in want.problems[0]


def test_podcidr_outside_the_cluster_range_is_reported() -> None:
    want = desired(replace(BASE, cluster_cidrs=("10.77.0.0/16",)))
    assert "outside the cluster CIDRs" in want.problems[0]


def test_changed_slots_are_those_of_both_sides() -> None:
    assert changed_slots(Endpoint4(1, 5, "m"), Endpoint4(1, 6, "m")) == {5, 6}
    assert changed_slots(None, Endpoint4(1, 6, "m")) == {6}


def test_interface_names_fit_and_differ() -> None:
    names = {host_ifname(f"container-{n}", "eth0") for n in range(1000)}
    assert len(names) == 1000
    assert {len(name) for name in names} == {15}
    assert {int(pod_mac(f"c{n}", "eth0")[:2], 16) & 3 for n in range(50)} == {2}  # local, unicast


@given(states)
def test_an_endpoint_is_who_it_stands_as(state: ClusterState) -> None:
    standings = {
        pod.key: Standing(1000 + index, PolicyAssignment(index, index % 2 == 0))
        for index, pod in enumerate(state.endpoints)
    }
    want = desired(replace(state, standings=standings)).endpoints4
    for pod in state.endpoints:
        value, standing = want[pod.address], standings[pod.key]
        assert (value.identity, PolicyAssignment(value.policy, value.audit)) == standing


def test_who_nodes_are() -> None:
    state = replace(BASE, nodes=(*BASE.nodes, remote(1), remote(2)), api_servers=frozenset({"192.0.2.2"}))
    ipcache = desired(state).ipcache4
    assert [ipcache[f"192.0.2.{number}/32"].identity for number in (200, 1, 2)] == [1, 6, 7]
    health = replace(endpoint(1), container_id=HEALTH_CONTAINER_ID)
    assert desired(replace(BASE, endpoints=(health,))).endpoints4["10.1.0.1"].identity == 4


networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.one_of(st.integers(0x0A000000, 0x0A03FFFF), st.integers(0, 2**32 - 1)),
    st.integers(0, 32),
)
RICH = replace(
    BASE,
    nodes=(*BASE.nodes, remote(1), remote(2)),
    non_masquerade_cidrs=("198.18.0.0/15", "10.0.0.0/8"),
    remote={"10.1.1.7": 4711, "10.1.2.9": 4712, "10.1.0.9": 4713, "192.0.2.1": 4714, "172.16.0.1": 4715},
)


def longest(ipcache: dict[str, Ipcache4], address: str) -> Ipcache4 | None:
    """What the datapath finds, worked out slowly."""
    around = [IPv4Network(key) for key in ipcache if ipaddress.IPv4Address(address) in IPv4Network(key)]
    return ipcache[str(max(around, key=lambda network: network.prefixlen))] if around else None


@given(st.sets(networks, max_size=6), st.integers(0, 2**32 - 1), st.data())
def test_prefixes_of_rules_name_the_world_and_change_no_route(
    prefixes: set[IPv4Network], address: int, data: st.DataObject
) -> None:
    cidrs = {prefix: 2 if prefix.prefixlen == 0 else 10000 + n for n, prefix in enumerate(sorted(prefixes))}
    before, after = desired(RICH).ipcache4, desired(replace(RICH, cidrs=cidrs)).ipcache4
    inside = [
        prefix.network_address + data.draw(st.integers(0, prefix.num_addresses - 1)) for prefix in prefixes
    ]
    for asked in map(str, [ipaddress.IPv4Address(address), *inside]):
        old, new = longest(before, asked), longest(after, asked)
        nowhere = Ipcache4(2)
        assert (new or nowhere).routing == (old or nowhere).routing
        if old is not None and old.identity != 2:
            assert new == old  # it is of the cluster
            continue
        around = [prefix for prefix in prefixes if ipaddress.IPv4Address(asked) in prefix]
        expected = cidrs[max(around, key=lambda prefix: prefix.prefixlen)] if around else 2
        assert (new or nowhere).identity == expected


def test_endpoints_of_other_nodes_are_reached_as_their_node_is() -> None:
    ipcache = desired(RICH).ipcache4
    assert ipcache["10.1.1.7/32"] == Ipcache4(4711, next_hop="192.0.2.1", cluster=True)
    assert ipcache["10.1.2.9/32"] == Ipcache4(4712, next_hop="192.0.2.2", cluster=True)
    assert "10.1.0.9/32" not in ipcache  # this node's range: nobody else's
    assert ipcache["192.0.2.1/32"].identity == 6  # a node is no endpoint
    assert "172.16.0.1/32" not in ipcache  # no address of the cluster
    moved = replace(RICH, cluster_cidrs=("10.1.0.0/16", "172.16.0.0/12"))
    assert desired(moved).ipcache4["172.16.0.1/32"] == Ipcache4(4715, cluster=True)
