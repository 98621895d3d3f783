"""Services without backends, and clients that services are not for."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, TCP, UDP, IPerror, TCPerror, UDPerror
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, OK, POD_A, POD_B, REDIRECT, REMOTE_POD, VIP, WORLD, Node
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, checked, ends, of, outside, ping, tcp, udp
from tests.bpf.services import backend_of

NODE_PORT = 30080
EXTERNAL = "203.0.113.99"
OTHER_WORLD = "203.0.113.8"
NO_BACKEND, CLUSTER_IP_REFUSED, NOT_IN_RANGE = 158, 174, 177


def assert_refused(result: n.Result, about: Packet, to: str, sender: str) -> None:
    """The packet came back as the port unreachable that it deserved."""
    assert result.verdict == REDIRECT
    assert result.forwards == {"REJECTED": 1}
    assert [event["reason"] for event in result.events] == [NO_BACKEND]
    ip = checked(result.packet)
    assert (ip.src, ip.dst, ip[ICMP].type, ip[ICMP].code) == (sender, to, 3, 3)
    quoted, sent = ip[IPerror], checked(Ether() / about)
    assert (quoted.src, quoted.dst, quoted.id, quoted.len) == (sent.src, sent.dst, sent.id, sent.len)
    layer, theirs = (TCP, TCPerror) if sent.haslayer(TCP) else (UDP, UDPerror)
    assert (ip[theirs].sport, ip[theirs].dport) == (sent[layer].sport, sent[layer].dport)
    if layer is TCP:
        assert ip[theirs].seq == sent[TCP].seq


@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
@pytest.mark.parametrize("known", [True, False], ids=["no-backend", "no-such-port"])
def test_a_pod_hears_that_nobody_serves(proxy: Node, make: object, known: bool) -> None:
    if known:
        for protocol in (TCP_PROTO, UDP_PROTO):
            proxy.services.expose(VIP, 80, protocol, [])
    packet = make(POD_A.address, VIP, dport=80)
    result = proxy.from_pod(of(POD_A) / packet)
    assert_refused(result, packet, POD_A.address, VIP)
    assert (result.packet.src, result.packet.dst) == (n.HOST_MAC, POD_A.mac)
    assert proxy.to_pod(result.packet, seen=n.SEEN_DIRECT).verdict == OK


@pytest.mark.parametrize("data", [b"", b"odd", b"x" * 1400], ids=["empty", "odd", "large"])
def test_datagrams_of_any_length_are_refused_properly(proxy: Node, data: bytes) -> None:
    packet = udp(POD_A.address, VIP, dport=80, data=data)
    assert_refused(proxy.from_pod(of(POD_A) / packet), packet, POD_A.address, VIP)


def test_a_host_hears_that_nobody_serves(proxy: Node) -> None:
    """Sockets leave it alone, so the packet comes as far as the node's device."""
    packet = tcp(NODE_IP, VIP, dport=80)
    result = proxy.to_netdev(outside() / packet)
    assert_refused(result, packet, NODE_IP, VIP)
    back = proxy.from_netdev(result.packet)
    assert (back.verdict, back.forwards, back.drops) == (OK, {}, {})


def test_a_client_outside_hears_that_nobody_serves(proxy: Node) -> None:
    proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [], flags=s.NODE_PORT)
    packet = tcp(WORLD, NODE_IP, dport=NODE_PORT)
    result = proxy.from_netdev(outside() / packet)
    assert_refused(result, packet, WORLD, NODE_IP)
    assert proxy.to_netdev(result.packet, seen=n.SEEN_DIRECT).verdict == OK


def test_without_a_local_backend_a_load_balancer_hears_nothing(proxy: Node) -> None:
    proxy.services.expose(
        s.ANY, NODE_PORT, TCP_PROTO, [(REMOTE_POD, 8080)], flags=s.NODE_PORT | s.EXTERNAL_LOCAL, external=[]
    )
    packet = tcp(WORLD, NODE_IP, dport=NODE_PORT)
    assert proxy.from_netdev(outside() / packet).reason == NO_BACKEND
    assert backend_of(proxy, tcp(POD_A.address, NODE_IP, dport=NODE_PORT)) == (REMOTE_POD, 8080)


def test_a_ping_to_a_cluster_ip_goes_nowhere(proxy: Node) -> None:
    assert proxy.from_pod(of(POD_A) / ping(POD_A.address, VIP)).reason == NO_BACKEND


def test_nothing_untranslated_leaves_for_the_service_range(proxy: Node) -> None:
    proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP, flags="A"))
    result = proxy.to_netdev(outside() / tcp(POD_A.address, VIP, flags="A"))
    assert result.forwards == {"REJECTED": 1} and checked(result.packet).dst == POD_A.address
    ping_from_host = proxy.to_netdev(outside() / ping(NODE_IP, VIP))
    assert ping_from_host.reason == NO_BACKEND


def test_clients_outside_do_not_reach_cluster_ips(proxy: Node) -> None:
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    assert proxy.from_netdev(outside() / tcp(WORLD, VIP)).reason == CLUSTER_IP_REFUSED


def test_source_ranges_keep_others_out(proxy: Node) -> None:
    flags = s.LOAD_BALANCER | s.SOURCE_RANGES
    proxy.services.expose(EXTERNAL, 80, TCP_PROTO, [(POD_B.address, 8080)], flags=flags, service=7)
    proxy.services.allow(7, "203.0.113.0", 29)
    proxy.services.allow(8, "0.0.0.0", 0)
    allowed = proxy.from_netdev(outside() / tcp(WORLD, EXTERNAL))
    assert ends(allowed.packet)[2:] == (POD_B.address, 8080)
    assert proxy.from_netdev(outside() / tcp(OTHER_WORLD, EXTERNAL)).reason == NOT_IN_RANGE
    assert proxy.from_pod(of(POD_A) / tcp(POD_A.address, EXTERNAL)).reason == NOT_IN_RANGE
