"""The desired state is a function of the cluster state; these are its laws."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from podwire.agent.desired import Endpoint4, Ipcache4, changed_slots, desired
from podwire.agent.model import ClusterState, Endpoint, NodeInfo, host_ifname, pod_mac
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
