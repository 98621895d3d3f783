"""Where packets go, and what is rewritten on the way."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP, IPOption_RR
from scapy.packet import Raw

from tests.bpf import node as n
from tests.bpf.node import NODE_IP, OK, OTHER_NODE, POD_A, POD_B, REDIRECT, REMOTE_POD, VIP, WORLD, Node
from tests.bpf.packets import TCP_PROTO, checked, of, outside, ping, tcp, udp

SCTP_INIT = bytes.fromhex("9c400050 00000000 00000000 01000014 00000000".replace(" ", ""))

FROM_POD = [
    # destination, forwards in eBPF mode, delivery remembered
    pytest.param(POD_B.address, "PEER", n.PEER, id="pod-of-this-node"),
    pytest.param(REMOTE_POD, "NEIGH", n.NEIGH, id="pod-of-another-node"),
    pytest.param(OTHER_NODE, "NEIGH", n.NEIGH, id="another-node"),
    pytest.param(WORLD, "NEIGH", n.NEIGH, id="world"),
    pytest.param(NODE_IP, "STACK_TRANSLATED", n.STACK, id="own-node"),
    pytest.param(VIP, "STACK_TRANSLATED", n.STACK, id="service"),
]


@pytest.mark.parametrize(("destination", "kind", "delivery"), FROM_POD)
def test_ebpf_mode_delivers_past_the_stack(node: Node, destination: str, kind: str, delivery: int) -> None:
    for flags in ("S", "A"):  # slow path, then fast path
        result = node.from_pod(of(POD_A) / tcp(POD_A.address, destination, flags=flags))
        assert result.verdict == (OK if delivery == n.STACK else REDIRECT)
        assert result.forwards == {kind: 1}
        assert checked(result.packet).ttl == (64 if delivery == n.STACK else 63)
    entry = node.ct(POD_A.address, destination, TCP_PROTO, 40000, 80)
    assert entry is not None and entry["delivery"] == delivery
    assert entry["packets"] == 2


@pytest.mark.parametrize(("destination", "kind", "delivery"), FROM_POD)
def test_legacy_mode_leaves_routing_to_the_stack(
    legacy: Node, destination: str, kind: str, delivery: int
) -> None:
    expected = kind if delivery == n.STACK else "STACK"
    for flags in ("S", "A"):
        packet = of(POD_A) / tcp(POD_A.address, destination, flags=flags)
        result = legacy.from_pod(packet)
        assert (result.verdict, result.forwards) == (OK, {expected: 1})
        assert bytes(result.packet) == bytes(packet), "the stack routes what the pod sent"


def test_peer_delivery_rewrites_mac_addresses(node: Node) -> None:
    result = node.from_pod(of(POD_A) / udp(POD_A.address, POD_B.address))
    assert (result.packet.src, result.packet.dst) == (n.HOST_MAC, POD_B.mac)
    assert result.packet[UDP].load == b"x"


def test_next_hops_come_from_the_hosts_routes(node: Node) -> None:
    for destination, next_hop in ((REMOTE_POD, OTHER_NODE), (OTHER_NODE, OTHER_NODE), (WORLD, n.ROUTER)):
        node.from_pod(of(POD_A) / tcp(POD_A.address, destination))
        entry = node.ct(POD_A.address, destination, TCP_PROTO, 40000, 80)
        assert entry is not None
        assert entry["next_hop"] == n.number(next_hop)
        assert entry["output_ifindex"] == n.device_index("eth0")


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp", "sctp"])
def test_answers_find_the_entry_their_request_made(node: Node, protocol: str) -> None:
    request, answer = {
        "tcp": (tcp(POD_A.address, POD_B.address), tcp(POD_B.address, POD_A.address, 80, 40000, "SA")),
        "udp": (udp(POD_A.address, POD_B.address), udp(POD_B.address, POD_A.address, 53, 40000)),
        "icmp": (ping(POD_A.address, POD_B.address), ping(POD_B.address, POD_A.address, reply=True)),
        "sctp": (
            IP(src=POD_A.address, dst=POD_B.address, proto=132) / Raw(SCTP_INIT),
            IP(src=POD_B.address, dst=POD_A.address, proto=132)
            / Raw(bytes.fromhex("00509c40") + SCTP_INIT[4:]),
        ),
    }[protocol]
    assert node.from_pod(of(POD_A) / request).forwards == {"PEER": 1}
    entries = {str(key): value["decided"] for key, value in node.maps["podwire_ct4"].items()}
    assert len(entries) == 2, "one entry per direction"
    result = node.from_pod(of(POD_B) / answer, POD_B)
    assert result.forwards == {"PEER": 1}
    assert result.packet.dst == POD_A.mac
    after = {str(key): value["decided"] for key, value in node.maps["podwire_ct4"].items()}
    assert after == entries, "the answer followed the entry instead of deciding anew"


def test_packets_from_outside_reach_the_pod(node: Node) -> None:
    result = node.from_netdev(outside() / tcp(REMOTE_POD, POD_A.address))
    assert (result.verdict, result.forwards) == (REDIRECT, {"PEER": 1})
    assert (result.packet.src, result.packet.dst) == (n.HOST_MAC, POD_A.mac)
    assert checked(result.packet).ttl == 63
    answer = node.from_pod(of(POD_A) / tcp(POD_A.address, REMOTE_POD, 80, 40000, "SA"))
    assert answer.forwards == {"NEIGH": 1}


def test_packets_from_outside_take_the_stack_in_legacy_mode(legacy: Node) -> None:
    result = legacy.from_netdev(outside() / tcp(REMOTE_POD, POD_A.address))
    assert (result.verdict, result.forwards) == (OK, {"STACK": 1})
    routed = legacy.to_pod(outside() / tcp(REMOTE_POD, POD_A.address), seen=n.SEEN_DIRECT)
    assert (routed.verdict, routed.forwards) == (OK, {"POD_DIRECT": 1})
    answer = legacy.from_pod(of(POD_A) / tcp(POD_A.address, REMOTE_POD, 80, 40000, "SA"))
    assert (answer.verdict, answer.forwards) == (OK, {"STACK": 1})


@pytest.mark.parametrize("destination", [NODE_IP, "192.0.2.77", "198.51.100.1"])
def test_the_nodes_own_traffic_is_not_touched(either: Node, destination: str) -> None:
    packet = outside() / tcp(WORLD, destination)
    result = either.from_netdev(packet)
    assert (result.verdict, result.forwards, bytes(result.packet)) == (OK, {}, bytes(packet))
    packet = outside() / tcp(NODE_IP, WORLD)
    result = either.to_netdev(packet)
    assert (result.verdict, result.forwards, bytes(result.packet)) == (OK, {}, bytes(packet))
    assert not list(either.maps["podwire_ct4"].items())


@pytest.mark.parametrize("destination", [POD_B.address, REMOTE_POD])
@pytest.mark.parametrize("ttl", [0, 1])
def test_a_ttl_that_runs_out_is_answered_by_the_stack(node: Node, destination: str, ttl: int) -> None:
    for _ in range(2):
        result = node.from_pod(of(POD_A) / udp(POD_A.address, destination, ttl=ttl))
        assert (result.verdict, result.forwards, result.packet.ttl) == (OK, {"STACK": 1}, ttl)
    result = node.from_pod(of(POD_A) / udp(POD_A.address, destination, ttl=2))
    assert (result.verdict, checked(result.packet).ttl) == (REDIRECT, 1)


@pytest.mark.parametrize("ttl", range(2, 256, 23))
def test_the_header_checksum_follows_the_ttl(node: Node, ttl: int) -> None:
    result = node.from_pod(of(POD_A) / udp(POD_A.address, POD_B.address, ttl=ttl, id=ttl * 211))
    assert checked(result.packet).ttl == ttl - 1


@pytest.mark.parametrize("destination", [POD_B.address, REMOTE_POD])
def test_a_packet_beyond_the_mtu_is_answered_by_the_stack(node: Node, destination: str) -> None:
    fits = udp(POD_A.address, destination, data=b"d" * 1472, flags="DF")
    too_big = udp(POD_A.address, destination, data=b"d" * 1473, flags="DF")
    for _ in range(2):
        assert node.from_pod(of(POD_A) / fits).verdict == REDIRECT
        result = node.from_pod(of(POD_A) / too_big)
        assert (result.verdict, result.forwards) == (OK, {"STACK": 1})


def test_a_burst_is_judged_by_its_segments(node: Node) -> None:
    burst = (
        of(POD_A)
        / IP(src=POD_A.address, dst=POD_B.address)
        / TCP(sport=1, dport=2, flags="SA")
        / Raw(b"d" * 2920)
    )
    assert node.from_pod(burst, gso_size=1460).forwards == {"PEER": 1}
    assert node.from_pod(burst, gso_size=1461).forwards == {"STACK": 1}
    assert node.from_pod(burst).forwards == {"STACK": 1}


def test_ip_options_are_obeyed_by_the_stack(node: Node) -> None:
    packet = (
        of(POD_A)
        / IP(src=POD_A.address, dst=POD_B.address, options=IPOption_RR(length=7))
        / UDP(sport=1, dport=2)
    )
    for _ in range(2):
        result = node.from_pod(packet)
        assert (result.verdict, result.forwards) == (OK, {"STACK": 1})
    assert node.ct(POD_A.address, POD_B.address, 17, 1, 2), "ports are found behind the options"


def test_padding_of_short_frames_is_not_payload(node: Node) -> None:
    packet = bytes(of(POD_A) / udp(POD_A.address, POD_B.address)) + b"\0" * 17
    result = node.run("from_pod", packet, POD_A.device)  # type: ignore[arg-type]
    assert result.verdict == REDIRECT
    entry = node.ct(POD_A.address, POD_B.address, 17, 40000, 53)
    assert entry is not None and entry["bytes"] == 29


def test_addresses_of_the_host_that_nobody_named_are_left_to_the_stack(node: Node) -> None:
    n.ip("addr", "add", "192.0.2.77/32", "dev", "eth0")
    result = node.from_pod(of(POD_A) / tcp(POD_A.address, "192.0.2.77"))
    n.ip("addr", "del", "192.0.2.77/32", "dev", "eth0")
    assert (result.verdict, result.forwards) == (OK, {"STACK_TRANSLATED": 1})


def test_unroutable_destinations_are_answered_by_the_stack(node: Node) -> None:
    n.ip("route", "add", "unreachable", "198.51.100.0/24")
    result = node.from_pod(of(POD_A) / tcp(POD_A.address, "198.51.100.1"))
    n.ip("route", "del", "unreachable", "198.51.100.0/24")
    assert (result.verdict, result.forwards) == (OK, {"STACK": 1})


def test_other_protocols_on_the_nodes_device_pass(either: Node) -> None:
    for kind in (0x0806, 0x86DD, 0x88CC):
        packet = outside() / Raw(bytes(46))
        packet.type = kind
        assert either.from_netdev(packet).verdict == OK
        assert either.to_netdev(packet).verdict == OK


def test_frames_for_another_machine_are_ignored(either: Node) -> None:
    """A switch may flood them to a device that takes all frames."""
    for destination in (POD_A.address, NODE_IP):
        frame = outside() / udp(REMOTE_POD, destination)
        frame.dst = "0e:00:00:00:00:99"
        result = either.from_netdev(frame)
        assert (result.verdict, result.forwards, bytes(result.packet)) == (OK, {}, bytes(frame))
    assert not list(either.maps["podwire_ct4"].items())
