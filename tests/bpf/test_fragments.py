"""Datagrams in pieces: only the first piece has ports."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.packet import Packet, Raw

from tests.bpf import node as n
from tests.bpf.node import NODE_IP, OK, POD_A, POD_B, REDIRECT, REMOTE_POD, WORLD, Node
from tests.bpf.packets import UDP_PROTO, checked, of, outside, ping, udp


def pieces(packet: Packet) -> list[Packet]:
    return list(fragment(IP(bytes(packet)), fragsize=1400))


def whole(parts: list[Packet]) -> IP:
    """Reassemble, as the receiver would."""
    data = b"".join(bytes(part.payload) for part in sorted(parts, key=lambda part: part.frag))
    first = parts[0]
    return IP(src=first.src, dst=first.dst, proto=first.proto, id=first.id) / Raw(data)


@pytest.mark.parametrize("destination", [POD_B.address, REMOTE_POD])
def test_later_fragments_follow_the_first(node: Node, destination: str) -> None:
    parts = pieces(udp(POD_A.address, destination, data=b"d" * 4000, id=4711))
    assert len(parts) == 3
    for part in parts:
        assert node.from_pod(of(POD_A) / part).verdict == REDIRECT
    entry = node.ct(POD_A.address, destination, UDP_PROTO, 40000, 53)
    assert entry is not None and entry["packets"] == 3


def test_fragments_from_outside_reach_the_pod(node: Node) -> None:
    for part in pieces(udp(REMOTE_POD, POD_A.address, data=b"d" * 4000)):
        assert node.from_netdev(outside() / part).forwards == {"PEER": 1}


@pytest.mark.parametrize("field", ["id", "src", "dst", "proto"])
def test_a_fragment_without_its_first_is_refused(either: Node, field: str) -> None:
    first, *later = pieces(udp(POD_A.address, POD_B.address, data=b"d" * 4000, id=1))
    assert either.from_pod(of(POD_A) / first).reason is None
    stray = later[0]
    setattr(stray, field, {"id": 2, "src": POD_B.address, "dst": REMOTE_POD, "proto": 6}[field])
    del stray.chksum
    assert either.from_pod(of(POD_A) / stray).reason == 175


def test_a_stray_fragment_for_a_pod_is_refused_and_for_the_node_is_not_ours(either: Node) -> None:
    for destination, reason in ((POD_A.address, 175), (NODE_IP, None), ("198.51.100.9", None)):
        _, later = pieces(udp(WORLD, destination, data=b"d" * 2000))
        assert either.from_netdev(outside() / later).reason == reason


def test_a_fragment_that_overlaps_tcp_flags_is_refused(either: Node) -> None:
    packet = IP(src=POD_A.address, dst=POD_B.address, proto=6, frag=1) / Raw(bytes(32))
    assert either.from_pod(of(POD_A) / packet).reason == 134


def test_a_first_fragment_without_the_whole_header_is_refused(either: Node) -> None:
    packet = IP(src=POD_A.address, dst=POD_B.address, proto=6, flags="MF") / Raw(bytes(8))
    assert either.from_pod(of(POD_A) / packet).reason == 135


@pytest.mark.parametrize("make", [udp, ping], ids=["udp", "ping"])
def test_masqueraded_fragments_make_one_datagram(either: Node, make: object) -> None:
    if make is udp:
        packet = udp(POD_A.address, WORLD, data=b"d" * 4000, id=99)
    else:
        packet = ping(POD_A.address, WORLD, id=99)
        packet[Raw].load = b"d" * 4000
    wire = []
    for part in pieces(packet):
        assert either.from_pod(of(POD_A) / part).reason is None
        result = either.to_netdev(outside() / part, seen=n.SEEN_MASQUERADE)
        assert result.forwards == {"MASQUERADED": 1}
        assert result.packet[IP].src == NODE_IP
        wire.append(result.packet[IP])
    checked(outside() / whole(wire))


def test_fragments_of_an_answer_from_the_world_reach_the_pod(either: Node) -> None:
    either.from_pod(of(POD_A) / udp(POD_A.address, WORLD))
    out = either.to_netdev(outside() / udp(POD_A.address, WORLD), seen=n.SEEN_MASQUERADE)
    port = out.packet[UDP].sport
    arrived = []
    for part in pieces(udp(WORLD, NODE_IP, 53, port, data=b"d" * 4000, id=5)):
        result = either.from_netdev(outside() / part)
        assert result.forwards.pop("UNMASQUERADED") == 1
        assert result.verdict in (OK, REDIRECT)
        assert result.packet[IP].dst == POD_A.address
        arrived.append(result.packet[IP])
    assert checked(outside() / whole(arrived))[UDP].dport == 40000
