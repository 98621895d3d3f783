"""What is remembered about connections, and when it stops being valid."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bpf import node as n
from tests.bpf.node import (
    EBPF,
    EBPF_ROUTING,
    LEGACY,
    NODE_IP,
    OK,
    ORIGINAL,
    POD_A,
    POD_B,
    REDIRECT,
    REMOTE_POD,
    VIA_STACK,
    VIP,
    WORLD,
    Node,
    Pod,
)
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, error, of, outside, ping, tcp, udp

A_TO_B = (POD_A.address, POD_B.address, TCP_PROTO, 40000, 80)
B_TO_A = (POD_B.address, POD_A.address, TCP_PROTO, 80, 40000)


def entry(node: Node, *flow: Any) -> dict[str, Any]:
    found = node.ct(*flow)
    assert found is not None, f"no entry for {flow}"
    return found


def handshake(node: Node) -> None:
    """A opens a connection to B, which answers."""
    node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address))
    node.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, "SA"), POD_B)
    node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address, flags="A"))


def test_an_entry_says_what_it_is_valid_for(node: Node) -> None:
    handshake(node)
    forward, back = entry(node, *A_TO_B), entry(node, *B_TO_A)
    assert forward["ifindex"] == n.device_index(POD_A.device)
    assert back["ifindex"] == n.device_index(POD_B.device)
    assert (forward["source_slot"], forward["destination_slot"]) == (POD_A.slot, POD_B.slot)
    assert (back["source_slot"], back["destination_slot"]) == (POD_B.slot, POD_A.slot)
    assert forward["flags"] == EBPF_ROUTING | ORIGINAL
    assert back["flags"] == EBPF_ROUTING
    assert (forward["packets"], back["packets"]) == (2, 1)
    assert forward["last_seen"] >= forward["decided"] > 0


@pytest.mark.parametrize("slot", [POD_A.slot, POD_B.slot], ids=["source", "destination"])
def test_a_new_revision_of_either_end_asks_again(node: Node, slot: int) -> None:
    handshake(node)
    before = entry(node, *A_TO_B)
    node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address, flags="A"))
    assert entry(node, *A_TO_B)["decided"] == before["decided"]
    node.bump(slot)
    assert node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address, flags="A")).forwards == {"PEER": 1}
    after = entry(node, *A_TO_B)
    assert after["decided"] > before["decided"]
    assert after["packets"] == 4, "counters go on"
    assert after["flags"] & ORIGINAL


def test_other_endpoints_revisions_do_not_matter(node: Node) -> None:
    handshake(node)
    before = entry(node, *A_TO_B)
    node.bump(0)
    node.bump(7)
    node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address, flags="A"))
    assert entry(node, *A_TO_B)["decided"] == before["decided"]


def test_slot_0_vouches_for_what_is_not_here(node: Node) -> None:
    flow = (POD_A.address, REMOTE_POD, UDP_PROTO, 40000, 53)
    packet = of(POD_A) / udp(POD_A.address, REMOTE_POD)
    assert node.from_pod(packet).forwards == {"NEIGH": 1}
    before = entry(node, *flow)
    node.know(f"{REMOTE_POD}/32", n.SERVICE)
    assert node.from_pod(packet).forwards == {"STACK_TRANSLATED": 1}
    assert entry(node, *flow)["decided"] > before["decided"]


def test_the_answer_of_the_fib_is_not_trusted_for_long(node: Node) -> None:
    flow = (POD_A.address, REMOTE_POD, UDP_PROTO, 40000, 53)
    packet = of(POD_A) / udp(POD_A.address, REMOTE_POD)
    node.from_pod(packet)
    aged = entry(node, *flow)
    age = 3 * 10**9
    node.maps["podwire_ct4"].set(
        n.tuple4(*flow), aged | {"decided": aged["decided"] - age, "seen_jiffies": 0}
    )
    assert node.from_pod(packet).forwards == {"NEIGH": 1}
    assert entry(node, *flow)["decided"] > aged["decided"]


def test_a_pod_that_is_gone_gets_nothing(node: Node) -> None:
    handshake(node)
    node.remove(POD_B)
    result = node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address, flags="A"))
    assert result.reason == 151
    result = node.from_netdev(outside() / tcp(REMOTE_POD, POD_B.address))
    assert result.reason == 151


def test_an_address_that_is_used_again_starts_clean(node: Node) -> None:
    handshake(node)
    node.remove(POD_B)
    successor = Pod(POD_B.address, "0a:00:00:00:00:0c", POD_B.device, 3)
    node.add(successor)
    result = node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address, flags="A"))
    assert result.packet.dst == successor.mac
    assert entry(node, *A_TO_B)["destination_slot"] == 3


@pytest.mark.parametrize("flags", ["S", "A"])
def test_a_pod_cannot_ride_on_its_neighbours_entry(either: Node, flags: str) -> None:
    handshake(either)
    before = entry(either, *A_TO_B)
    result = either.from_pod(of(POD_B) / tcp(POD_A.address, POD_B.address, flags=flags), POD_B)
    assert result.reason == 132
    assert entry(either, *A_TO_B) == before


@pytest.mark.parametrize("source", ["10.1.1.99", REMOTE_POD, WORLD, NODE_IP, "0.0.0.0", "127.0.0.1"])
def test_spoofed_sources_are_refused(either: Node, source: str) -> None:
    for packet in (tcp(source, POD_B.address), udp(source, WORLD), ping(source, NODE_IP)):
        assert either.from_pod(of(POD_A) / packet).reason == 132
    assert not list(either.maps["podwire_ct4"].items())


@pytest.mark.parametrize("source", [POD_A.address, POD_B.address, NODE_IP])
def test_outsiders_cannot_pretend_to_live_here(either: Node, source: str) -> None:
    assert either.from_netdev(outside() / tcp(source, POD_A.address)).reason == 132


def test_the_other_mode_asks_again_and_keeps_the_connection(node: Node) -> None:
    handshake(node)
    count = entry(node, *A_TO_B)["packets"]
    for mode, kind in ((LEGACY, "STACK"), (EBPF, "PEER"), (LEGACY, "STACK")):
        node.load(cfg_host_routing=mode)
        for _ in range(2):
            result = node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address, flags="A"))
            assert result.forwards == {kind: 1}
            result = node.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, "A"), POD_B)
            assert result.forwards == {kind: 1}
        count += 2
        assert entry(node, *A_TO_B)["packets"] == count
        assert entry(node, *A_TO_B)["flags"] & ORIGINAL


def test_packets_out_of_the_stack_are_answered_through_it(either: Node) -> None:
    """kube-proxy translated A's packet to a service into one to B: B's answers must be translated back."""
    to_b = outside() / tcp(POD_A.address, POD_B.address)
    assert either.to_pod(to_b, POD_B).forwards == {"POD_TRANSLATED": 1}
    assert entry(either, *A_TO_B)["flags"] & VIA_STACK
    assert entry(either, *B_TO_A)["flags"] & VIA_STACK
    for flags in ("SA", "A"):
        answer = either.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, flags), POD_B)
        assert (answer.verdict, answer.forwards) == (OK, {"STACK_TRANSLATED": 1})
    to_a = outside() / tcp(VIP, POD_A.address, 80, 40000, "SA")
    assert either.to_pod(to_a).forwards == {"POD_TRANSLATED": 1}


def test_host_processes_reach_pods_and_hear_from_them(either: Node) -> None:
    assert either.to_pod(outside() / udp(NODE_IP, POD_A.address)).verdict == OK
    answer = either.from_pod(of(POD_A) / udp(POD_A.address, NODE_IP, 53, 40000))
    assert (answer.verdict, answer.forwards) == (OK, {"STACK_TRANSLATED": 1})


def test_packets_that_were_only_routed_are_not_taken_for_translated(legacy: Node) -> None:
    legacy.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address))
    result = legacy.to_pod(outside() / tcp(POD_A.address, POD_B.address), POD_B, seen=n.SEEN_DIRECT)
    assert (result.verdict, result.forwards) == (OK, {"POD_DIRECT": 1})
    assert not entry(legacy, *A_TO_B)["flags"] & VIA_STACK
    answer = legacy.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, "SA"), POD_B)
    assert answer.forwards == {"STACK": 1}


def test_a_service_connection_to_another_node_is_answered_through_the_stack(either: Node) -> None:
    """kube-proxy chose a backend on another node: what comes back must not go straight to the pod."""
    result = either.to_netdev(outside() / tcp(POD_A.address, REMOTE_POD))
    assert (result.verdict, result.forwards) == (OK, {}), "not masqueraded: it stays in the cluster"
    answer = either.from_netdev(outside() / tcp(REMOTE_POD, POD_A.address, 80, 40000, "SA"))
    assert (answer.verdict, answer.forwards) == (OK, {"STACK_TRANSLATED": 1})


@pytest.mark.parametrize("slot", [0, POD_A.slot, POD_B.slot])
def test_going_through_the_stack_survives_new_revisions(either: Node, slot: int) -> None:
    either.to_pod(outside() / tcp(POD_A.address, POD_B.address), POD_B)
    either.bump(slot)
    answer = either.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, "SA"), POD_B)
    assert answer.forwards == {"STACK_TRANSLATED": 1}


def test_going_through_the_stack_survives_a_change_of_mode(node: Node) -> None:
    node.to_pod(outside() / tcp(POD_A.address, POD_B.address), POD_B)
    for mode in (LEGACY, EBPF):
        node.load(cfg_host_routing=mode)
        answer = node.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, "A"), POD_B)
        assert answer.forwards == {"STACK_TRANSLATED": 1}


def test_a_direct_connection_with_a_living_service_connections_ports_takes_the_stack(node: Node) -> None:
    """netfilter then sees both and keeps them apart."""
    node.to_pod(outside() / tcp(POD_A.address, POD_B.address), POD_B)
    result = node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address))
    assert result.forwards == {"STACK_TRANSLATED": 1}


@pytest.mark.parametrize("end", ["FA", "R", "RA"])
def test_a_new_connection_over_a_closed_ones_ports_starts_clean(node: Node, end: str) -> None:
    node.to_pod(outside() / tcp(POD_A.address, POD_B.address), POD_B)
    node.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, end), POD_B)
    assert node.from_pod(of(POD_A) / tcp(POD_A.address, POD_B.address)).forwards == {"PEER": 1}
    answer = node.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, "SA"), POD_B)
    assert answer.forwards == {"PEER": 1}


def test_a_service_connection_over_a_direct_ones_ports_is_noticed(node: Node) -> None:
    handshake(node)
    node.to_pod(outside() / tcp(POD_A.address, POD_B.address), POD_B)
    answer = node.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 80, 40000, "SA"), POD_B)
    assert answer.forwards == {"STACK_TRANSLATED": 1}


@pytest.mark.parametrize("destination", [POD_B.address, REMOTE_POD])
def test_the_middle_of_an_unknown_connection_is_left_to_the_stack(node: Node, destination: str) -> None:
    """netfilter may be translating a connection whose entry was evicted."""
    result = node.from_pod(of(POD_A) / tcp(POD_A.address, destination, flags="A"))
    assert result.forwards == {"STACK_TRANSLATED": 1}


def test_an_evicted_entry_is_rebuilt_from_its_reverse(node: Node) -> None:
    node.to_pod(outside() / udp(POD_A.address, POD_B.address), POD_B)
    node.maps["podwire_ct4"].delete(n.tuple4(POD_B.address, POD_A.address, UDP_PROTO, 53, 40000))
    answer = node.from_pod(of(POD_B) / udp(POD_B.address, POD_A.address, 53, 40000), POD_B)
    assert answer.forwards == {"STACK_TRANSLATED": 1}


def test_idle_flows_without_a_handshake_are_over_after_a_while(node: Node) -> None:
    node.to_pod(outside() / udp(POD_A.address, POD_B.address), POD_B)
    for flow in (
        (POD_A.address, POD_B.address, 17, 40000, 53),
        (POD_B.address, POD_A.address, 17, 53, 40000),
    ):
        idle = entry(node, *flow)
        ended = {"last_seen": (idle["last_seen"] - 601 * 10**9) % 2**64, "seen_jiffies": 0}
        node.maps["podwire_ct4"].set(n.tuple4(*flow), idle | ended)
    assert node.from_pod(of(POD_A) / udp(POD_A.address, POD_B.address)).forwards == {"PEER": 1}


def test_errors_travel_as_the_connection_they_are_about(node: Node) -> None:
    direct = udp(POD_A.address, POD_B.address, 40000, 53)
    node.from_pod(of(POD_A) / direct)
    result = node.from_pod(of(POD_B) / error(POD_B.address, POD_A.address, direct, code=3), POD_B)
    assert (result.verdict, result.forwards) == (REDIRECT, {"PEER": 1})
    translated = udp(POD_A.address, POD_B.address, 40001, 53)
    node.to_pod(outside() / translated, POD_B)
    result = node.from_pod(of(POD_B) / error(POD_B.address, POD_A.address, translated, code=3), POD_B)
    assert (result.verdict, result.forwards) == (OK, {"STACK_TRANSLATED": 1})


def test_errors_from_outside_travel_as_the_connection_they_are_about(node: Node) -> None:
    direct = udp(POD_A.address, REMOTE_POD, 40000, 53)
    node.from_pod(of(POD_A) / direct)
    assert node.from_netdev(outside() / error(REMOTE_POD, POD_A.address, direct)).forwards == {"PEER": 1}
    translated = udp(POD_A.address, REMOTE_POD, 40001, 53)
    node.to_netdev(outside() / translated)
    result = node.from_netdev(outside() / error(n.OTHER_NODE, POD_A.address, translated))
    assert result.forwards == {"STACK_TRANSLATED": 1}


def test_errors_make_no_entries(node: Node) -> None:
    node.from_netdev(outside() / error(WORLD, POD_A.address, udp(POD_A.address, WORLD)))
    assert not list(node.maps["podwire_ct4"].items())


def test_both_directions_of_ping_are_told_apart(node: Node) -> None:
    node.from_pod(of(POD_A) / ping(POD_A.address, POD_B.address))
    node.from_pod(of(POD_B) / ping(POD_B.address, POD_A.address), POD_B)
    assert len(list(node.maps["podwire_ct4"].items())) == 4
