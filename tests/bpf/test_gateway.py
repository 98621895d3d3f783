"""The gateway is an address on no interface; the datapath answers for it."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.bpf.node import GATEWAY, HOST_MAC, NODE_IP, OK, POD_A, POD_B, REDIRECT, SEEN_DIRECT, SHOT, Node
from tests.bpf.packets import outside

LINK_LOCAL = "fe80::aff:fe00:a"


def broadcast() -> Ether:
    return Ether(src=POD_A.mac, dst="ff:ff:ff:ff:ff:ff")


def request(target: str, source: str = POD_A.address) -> ARP:
    return ARP(op="who-has", hwsrc=POD_A.mac, psrc=source, pdst=target)


@pytest.mark.parametrize("source", [POD_A.address, "0.0.0.0"], ids=["request", "probe"])
def test_arp_for_the_gateway_is_answered(either: Node, source: str) -> None:
    result = either.from_pod(broadcast() / request(GATEWAY, source))
    assert (result.verdict, result.forwards) == (REDIRECT, {"ARP_REPLY": 1})
    answer = result.packet[ARP]
    assert (result.packet.dst, result.packet.src) == (POD_A.mac, HOST_MAC)
    assert (answer.op, answer.hwsrc, answer.psrc) == (2, HOST_MAC, GATEWAY)
    assert (answer.hwdst, answer.pdst) == (POD_A.mac, source)


def test_the_host_may_ask_for_a_pods_mac_address(either: Node) -> None:
    asked = either.to_pod(Ether(src=HOST_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, pdst=POD_A.address))
    assert asked.verdict == OK
    answer = ARP(op="is-at", hwsrc=POD_A.mac, psrc=POD_A.address, hwdst=HOST_MAC, pdst=NODE_IP)
    assert either.from_pod(Ether(src=POD_A.mac, dst=HOST_MAC) / answer).verdict == OK


ODD_ARP = [
    pytest.param(request(POD_B.address), 150, id="for-a-neighbour"),
    pytest.param(request(POD_A.address), 150, id="gratuitous"),
    pytest.param(ARP(op="is-at", hwsrc=POD_A.mac, psrc=POD_B.address), 132, id="in-a-neighbours-name"),
    pytest.param(ARP(op="is-at", hwsrc=POD_A.mac, psrc=NODE_IP), 132, id="in-the-nodes-name"),
    pytest.param(ARP(op=3, pdst=GATEWAY), 150, id="reverse-arp"),
    pytest.param(ARP(op=1, hwtype=6, pdst=GATEWAY), 134, id="not-ethernet"),
    pytest.param(Raw(bytes(ARP(op=1, pdst=GATEWAY))[:20]), 134, id="cut-short"),
]


@pytest.mark.parametrize(("arp", "reason"), ODD_ARP)
def test_other_arp_is_refused(either: Node, arp: Packet, reason: int) -> None:
    frame = broadcast() / arp
    frame.type = 0x0806
    assert either.from_pod(frame).reason == reason


@pytest.mark.parametrize(
    "options", [Raw(), ICMPv6NDOptSrcLLAddr(lladdr=POD_A.mac)], ids=["bare", "with-option"]
)
@pytest.mark.parametrize("destination", ["ff02::1:ff00:1", "fe80::1"], ids=["multicast", "unicast"])
def test_neighbour_solicitation_for_the_gateway_is_answered(
    either: Node, destination: str, options: Packet
) -> None:
    asked = IPv6(src=LINK_LOCAL, dst=destination, hlim=255) / ICMPv6ND_NS(tgt="fe80::1") / options
    result = either.from_pod(Ether(src=POD_A.mac, dst="33:33:ff:00:00:01") / asked)
    assert (result.verdict, result.forwards) == (REDIRECT, {"ARP_REPLY": 1})
    answer = result.packet
    assert (answer.dst, answer.src) == (POD_A.mac, HOST_MAC)
    assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == ("fe80::1", LINK_LOCAL, 255)
    advertisement = answer[ICMPv6ND_NA]
    assert (advertisement.R, advertisement.S, advertisement.O, advertisement.tgt) == (1, 1, 1, "fe80::1")
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == HOST_MAC
    rebuilt = IPv6(bytes(answer[IPv6]))
    del rebuilt[ICMPv6ND_NA].cksum
    assert IPv6(bytes(rebuilt))[ICMPv6ND_NA].cksum == advertisement.cksum


SOLICIT = ICMPv6ND_NS(tgt="fe80::1")
OTHER_IPV6 = [
    pytest.param(IPv6(src="::", dst="ff02::1:ff00:a", hlim=255) / ICMPv6ND_NS(tgt=LINK_LOCAL), 176, id="dad"),
    pytest.param(IPv6(src="::", dst="ff02::1:ff00:1", hlim=255) / SOLICIT, 176, id="dad-for-the-gateway"),
    pytest.param(IPv6(src=LINK_LOCAL, dst="fe80::1", hlim=64) / SOLICIT, 176, id="solicitation-from-afar"),
    pytest.param(
        IPv6(src=LINK_LOCAL, dst="ff02::2", hlim=255) / ICMPv6ND_RS(), 176, id="router-solicitation"
    ),
    pytest.param(
        IPv6(src=LINK_LOCAL, dst="ff02::16") / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(),
        139,
        id="multicast-listener",
    ),
    pytest.param(IPv6(src=LINK_LOCAL, dst="fe80::1") / ICMPv6EchoRequest(), 176, id="ping-of-the-gateway"),
    pytest.param(IPv6(src="fd00::2", dst="2001:db8::1", nh=6) / Raw(bytes(20)), 139, id="tcp"),
]


@pytest.mark.parametrize(("packet", "reason"), OTHER_IPV6)
def test_other_ipv6_does_not_leak_around_the_datapath(either: Node, packet: Packet, reason: int) -> None:
    frame = Ether(src=POD_A.mac, dst=HOST_MAC) / packet
    frame.type = 0x86DD
    result = either.from_pod(frame)
    assert result.reason == reason
    assert result.events[0]["family"] == 6
    assert either.to_pod(frame).reason == 139
    assert either.to_pod(frame, seen=SEEN_DIRECT).verdict == OK, "from_pod's answer for the gateway"


@pytest.mark.parametrize("kind", [0x88CC, 0x8863, 0x0842])
def test_other_protocols_are_refused(either: Node, kind: int) -> None:
    frame = Ether(src=POD_A.mac, dst=HOST_MAC, type=kind) / Raw(bytes(46))
    for result in (either.from_pod(frame), either.to_pod(frame)):
        assert result.verdict == SHOT
        assert result.reason == 166
        assert (result.events[0]["family"], result.events[0]["ether_type"]) == (0, kind)


def test_a_tag_does_not_hide_a_packet(either: Node) -> None:
    frame = Ether(src=POD_A.mac, dst=HOST_MAC) / Dot1Q(vlan=5) / request(GATEWAY)
    assert either.from_pod(frame).reason == 166
    assert either.from_netdev(outside() / Dot1Q(vlan=5) / Raw(bytes(46))).verdict == OK
