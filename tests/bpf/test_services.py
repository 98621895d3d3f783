"""Services: which backend a connection gets, how long it keeps it, and who is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, UDPerror, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, OK, OTHER_NODE, POD_A, POD_B, REDIRECT, REMOTE_POD, SHOT, VIP, WORLD, Node
from tests.bpf.packets import (
    SCTP_PROTO,
    TCP_PROTO,
    UDP_PROTO,
    checked,
    error,
    of,
    outside,
    ping,
    sctp,
    tcp,
    udp,
)

NODE_PORT = 30080
EXTERNAL = "203.0.113.99"
OTHER_WORLD = "203.0.113.8"
NO_BACKEND, CLUSTER_IP_REFUSED, NOT_IN_RANGE, NAT_UNSUPPORTED = 158, 174, 177, 168


def ends(packet: Packet) -> tuple[str, int, str, int]:
    """Source and destination of a packet whose checksums are right."""
    ip = checked(packet)
    layer = ip[TCP] if ip.haslayer(TCP) else ip[UDP]
    return ip.src, layer.sport, ip.dst, layer.dport


def backend_of(node: Node, packet: Packet) -> tuple[str, int]:
    """Where a pod's packet to a service goes."""
    return ends(node.from_pod(of(POD_A) / packet).packet)[2:]


# -- from pods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
@pytest.mark.parametrize("backend", [POD_B.address, REMOTE_POD, NODE_IP, OTHER_NODE, WORLD])
def test_a_pods_packets_go_to_the_backend(proxy: Node, backend: str, make: object) -> None:
    protocol = TCP_PROTO if make is tcp else UDP_PROTO
    proxy.services.expose(VIP, 80, protocol, [(backend, 8080)])
    for flags in ({"flags": "S"}, {"flags": "A"}) if make is tcp else ({}, {}):
        result = proxy.from_pod(of(POD_A) / make(POD_A.address, VIP, dport=80, **flags))
        assert ends(result.packet) == (POD_A.address, 40000, backend, 8080)
    entry = proxy.ct(POD_A.address, VIP, protocol, 40000, 80)
    assert entry is not None and entry["packets"] == 2 and entry["service"] == 1


def test_answers_of_a_pod_come_from_the_service(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    for flags in ("SA", "A"):
        answer = of(POD_B) / tcp(POD_B.address, POD_A.address, 8080, 40000, flags)
        result = ebpf_proxy.from_pod(answer, POD_B)
        assert result.forwards == {"PEER": 1}
        assert ends(result.packet) == (VIP, 80, POD_A.address, 40000)
        assert result.packet.dst == POD_A.mac


def test_answers_need_no_decision_of_their_own(ebpf_proxy: Node) -> None:
    """The entry that the request made serves the first answer already."""
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    flow = (POD_B.address, POD_A.address, TCP_PROTO, 8080, 40000)
    before = ebpf_proxy.ct(*flow)
    ebpf_proxy.from_pod(of(POD_B) / tcp(POD_B.address, POD_A.address, 8080, 40000, "SA"), POD_B)
    after = ebpf_proxy.ct(*flow)
    assert before is not None and after is not None
    assert (after["decided"], after["packets"]) == (before["decided"], 1)


def test_answers_from_another_node_come_from_the_service(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(REMOTE_POD, 8080)])
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    result = ebpf_proxy.from_netdev(outside() / tcp(REMOTE_POD, POD_A.address, 8080, 40000, "SA"))
    assert result.forwards == {"PEER": 1}
    assert ends(result.packet) == (VIP, 80, POD_A.address, 40000)


def test_netfilter_sees_the_backends_answer_and_the_pod_the_services(devices: None, proxy: Node) -> None:
    """In legacy host routing the stack must not meet a service's address: it is translated behind it."""
    proxy.load(cfg_host_routing=n.LEGACY, cfg_services=1)
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    answer = of(POD_B) / tcp(POD_B.address, POD_A.address, 8080, 40000, "SA")
    result = proxy.from_pod(answer, POD_B)
    assert (result.verdict, result.forwards) == (OK, {"STACK": 1})
    assert bytes(result.packet) == bytes(answer)
    result = proxy.to_pod(answer, POD_A, seen=s.SEEN_TRANSLATE)
    assert (result.verdict, result.forwards) == (OK, {"POD_DIRECT": 1})
    assert ends(result.packet) == (VIP, 80, POD_A.address, 40000)


def test_the_hosts_own_backend_answers_as_the_service(proxy: Node) -> None:
    proxy.services.expose(VIP, 443, TCP_PROTO, [(NODE_IP, 16443)])
    result = proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP, dport=443))
    assert result.forwards == {"STACK_TRANSLATED": 1}
    assert ends(result.packet)[2:] == (NODE_IP, 16443)
    for flags in ("SA", "A"):
        result = proxy.to_pod(of(POD_B) / tcp(NODE_IP, POD_A.address, 16443, 40000, flags))
        assert ends(result.packet) == (VIP, 443, POD_A.address, 40000)


def test_a_pod_that_reaches_itself_sees_a_strangers_address(proxy: Node) -> None:
    """In both host-routing modes past the stack, which has no route for that address."""
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_A.address, 8080)])
    for flags in ("S", "A"):
        result = proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP, flags=flags))
        assert result.forwards == {"PEER": 1}
        assert ends(result.packet) == (s.HAIRPIN, 40000, POD_A.address, 8080)
    for flags in ("SA", "A"):
        result = proxy.from_pod(of(POD_A) / tcp(POD_A.address, s.HAIRPIN, 8080, 40000, flags))
        assert result.forwards == {"PEER": 1}
        assert ends(result.packet) == (VIP, 80, POD_A.address, 40000)


def test_nobody_else_reaches_the_strangers_address(proxy: Node) -> None:
    assert proxy.from_pod(of(POD_A) / tcp(POD_A.address, s.HAIRPIN)).reason == 150


def test_new_connections_are_spread(ebpf_proxy: Node) -> None:
    backends = [(POD_B.address, 8080 + i) for i in range(4)]
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, backends)
    hits = Counter(backend_of(ebpf_proxy, tcp(POD_A.address, VIP, sport)) for sport in range(30000, 30400))
    assert set(hits) == set(backends)
    assert min(hits.values()) > 50, "random, but no backend gets less than half of its share"


def test_only_the_matching_protocol_and_port_are_the_services(proxy: Node) -> None:
    proxy.services.expose(EXTERNAL, 80, TCP_PROTO, [(POD_B.address, 8080)], flags=s.EXTERNAL_IP)
    for packet in (udp(POD_A.address, EXTERNAL, dport=80), tcp(POD_A.address, EXTERNAL, dport=81)):
        assert ends(proxy.from_pod(of(POD_A) / packet).packet)[2] == EXTERNAL


@pytest.mark.parametrize("address", [NODE_IP, OTHER_NODE])
def test_node_ports_are_on_every_nodes_addresses(proxy: Node, address: str) -> None:
    proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(POD_B.address, 8080)], flags=s.NODE_PORT)
    assert backend_of(proxy, tcp(POD_A.address, address, dport=NODE_PORT)) == (POD_B.address, 8080)
    assert backend_of(proxy, tcp(POD_A.address, REMOTE_POD, dport=NODE_PORT)) == (REMOTE_POD, NODE_PORT)


@pytest.mark.parametrize("flags", [s.HOST_PORT, s.NODE_PORT | s.EXTERNAL_LOCAL], ids=["host-port", "local"])
def test_another_nodes_own_ports_are_left_to_it(proxy: Node, flags: int) -> None:
    proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(POD_B.address, 8080)], flags=flags)
    assert backend_of(proxy, tcp(POD_A.address, NODE_IP, dport=NODE_PORT)) == (POD_B.address, 8080)
    other = backend_of(proxy, tcp(POD_A.address, OTHER_NODE, dport=NODE_PORT))
    assert other == (OTHER_NODE, NODE_PORT)


# -- how long a backend is kept ----------------------------------------------------------------------------


def test_a_connection_keeps_its_backend_when_the_service_changes(proxy: Node) -> None:
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 9090)])
    for slot in (0, POD_A.slot, POD_B.slot):
        proxy.bump(slot)
        assert backend_of(proxy, tcp(POD_A.address, VIP, flags="A")) == (POD_B.address, 8080)
    proxy.services.withdraw(VIP, 80, TCP_PROTO)
    proxy.bump(0)
    assert backend_of(proxy, tcp(POD_A.address, VIP, flags="A")) == (POD_B.address, 8080)
    entry = proxy.ct(POD_A.address, VIP, TCP_PROTO, 40000, 80)
    assert entry is not None and entry["packets"] == 5


def test_answers_keep_their_translation_when_revisions_change(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    for slot in (POD_A.slot, POD_B.slot, 0):
        ebpf_proxy.bump(slot)
        answer = of(POD_B) / tcp(POD_B.address, POD_A.address, 8080, 40000, "A")
        assert ends(ebpf_proxy.from_pod(answer, POD_B).packet) == (VIP, 80, POD_A.address, 40000)


def test_a_repeated_syn_keeps_its_backend(proxy: Node) -> None:
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080 + i) for i in range(50)])
    packet = tcp(POD_A.address, VIP)
    assert len({backend_of(proxy, packet) for _ in range(10)}) == 1


@pytest.mark.parametrize("goodbye", ["F", "R", ""], ids=["fin", "reset", "established"])
def test_a_syn_over_an_old_connection_gets_another_backend(ebpf_proxy: Node, goodbye: str) -> None:
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP, flags="A" + goodbye))
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 9090)])
    assert backend_of(ebpf_proxy, tcp(POD_A.address, VIP)) == (POD_B.address, 9090)
    answer = of(POD_B) / tcp(POD_B.address, POD_A.address, 9090, 40000, "SA")
    assert ends(ebpf_proxy.from_pod(answer, POD_B).packet) == (VIP, 80, POD_A.address, 40000)


def test_a_refused_connection_tries_another_backend(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    refusal = of(POD_B) / tcp(POD_B.address, POD_A.address, 8080, 40000, "RA")
    assert ends(ebpf_proxy.from_pod(refusal, POD_B).packet) == (VIP, 80, POD_A.address, 40000)
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 9090)])
    assert backend_of(ebpf_proxy, tcp(POD_A.address, VIP)) == (POD_B.address, 9090)


def earlier(time: int, seconds: int) -> int:
    """Also before the machine was started: the datapath's clock wraps as its numbers do."""
    return (time - seconds * 1_000_000_000) % (1 << 64)


def age(node: Node, seconds: int) -> None:
    """Let all connections look as if their last packet was that long ago."""
    table = node.maps["podwire_ct4"]
    for key, value in list(table.items()):
        value["last_seen"] = earlier(value["last_seen"], seconds)
        value["seen_jiffies"] = 0
        table.set(key, value)


def test_datagrams_get_another_backend_after_a_long_silence(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 8053)])
    packet = udp(POD_A.address, VIP, dport=53)
    backend_of(ebpf_proxy, packet)
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 9053)])
    age(ebpf_proxy, 590)
    assert backend_of(ebpf_proxy, packet) == (POD_B.address, 8053)
    age(ebpf_proxy, 610)
    assert backend_of(ebpf_proxy, packet) == (POD_B.address, 9053)


def test_one_sided_datagrams_keep_their_translation(ebpf_proxy: Node) -> None:
    """The client asked once, long ago; the backend still sends."""
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 8053)])
    ebpf_proxy.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=53))
    answer = of(POD_B) / udp(POD_B.address, POD_A.address, 8053, 40000)
    for _ in range(3):
        age(ebpf_proxy, 400)
        assert ends(ebpf_proxy.from_pod(answer, POD_B).packet) == (VIP, 53, POD_A.address, 40000)
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 9053)])
    assert backend_of(ebpf_proxy, udp(POD_A.address, VIP, dport=53)) == (POD_B.address, 8053)


def test_a_connection_of_the_backends_own_is_not_translated(ebpf_proxy: Node) -> None:
    """From the port and to the port of a service's connection, but opened by the other side."""
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    own = of(POD_B) / tcp(POD_B.address, POD_A.address, 8080, 40000, "S")
    assert ends(ebpf_proxy.from_pod(own, POD_B).packet) == (POD_B.address, 8080, POD_A.address, 40000)


def test_two_services_with_one_backend_do_not_mix(ebpf_proxy: Node) -> None:
    for port in (80, 81):
        ebpf_proxy.services.expose(VIP, port, UDP_PROTO, [(POD_B.address, 8080)])
    first = ends(ebpf_proxy.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=80)).packet)
    second = ends(ebpf_proxy.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=81)).packet)
    assert first[1] == 40000 and second[1] >= 61000
    for (_, sport, *_), port in ((first, 80), (second, 81)):
        answer = of(POD_B) / udp(POD_B.address, POD_A.address, 8080, sport)
        assert ends(ebpf_proxy.from_pod(answer, POD_B).packet) == (VIP, port, POD_A.address, 40000)


def test_turning_services_on_ends_what_the_table_remembers_about_their_addresses(node: Node) -> None:
    node.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=53))
    node.load(cfg_services=1)
    s.Services(node.maps).expose(VIP, 53, UDP_PROTO, [(POD_B.address, 8053)])
    assert backend_of(node, udp(POD_A.address, VIP, dport=53)) == (POD_B.address, 8053)


def test_the_middle_of_an_unknown_connection_is_left_to_netfilter(proxy: Node) -> None:
    """kube-proxy may be translating it, until it ends."""
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    result = proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP, flags="A"))
    assert result.forwards == {"STACK_TRANSLATED": 1}
    assert ends(result.packet)[2] == VIP


# -- who is refused ----------------------------------------------------------------------------------------


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


# -- from outside ------------------------------------------------------------------------------------------


def test_a_local_backend_sees_the_clients_address(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(POD_B.address, 8080)], flags=s.NODE_PORT)
    for flags in ("S", "A"):
        result = ebpf_proxy.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT, flags=flags))
        assert result.forwards == {"PEER": 1}
        assert ends(result.packet) == (WORLD, 40000, POD_B.address, 8080)
    for flags in ("SA", "A"):
        result = ebpf_proxy.from_pod(of(POD_B) / tcp(POD_B.address, WORLD, 8080, 40000, flags), POD_B)
        assert result.forwards == {"NEIGH": 1}
        assert ends(result.packet) == (NODE_IP, NODE_PORT, WORLD, 40000)


@pytest.mark.parametrize("masquerade", [1, 0])
def test_a_backend_on_another_node_sees_this_node(ebpf_proxy: Node, masquerade: int) -> None:
    """Also when pods keep their addresses towards the world: the answers must come back here."""
    node = ebpf_proxy
    node.load(cfg_services=1, cfg_masquerade=masquerade)
    node.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(REMOTE_POD, 8080)], flags=s.NODE_PORT)
    for flags, answer in (("S", "SA"), ("A", "A")):
        result = node.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT, flags=flags))
        assert result.forwards == {"NEIGH": 1}
        assert ends(result.packet) == (WORLD, 40000, REMOTE_POD, 8080)
        leaving = node.to_netdev(result.packet, seen=n.SEEN_MASQUERADE)
        assert leaving.forwards == {"MASQUERADED": 1}
        source, port, *destination = ends(leaving.packet)
        assert (source, *destination) == (NODE_IP, REMOTE_POD, 8080)
        back = node.from_netdev(outside() / tcp(REMOTE_POD, NODE_IP, 8080, port, answer))
        assert back.forwards == {"UNMASQUERADED": 1, "NEIGH": 1}
        assert ends(back.packet) == (NODE_IP, NODE_PORT, WORLD, 40000)


def test_the_hosts_own_backend_sees_the_clients_address(proxy: Node) -> None:
    proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(NODE_IP, 8080)], flags=s.NODE_PORT)
    for flags in ("S", "A"):
        result = proxy.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT, flags=flags))
        assert (result.verdict, result.forwards) == (OK, {"STACK_TRANSLATED": 1})
        assert ends(result.packet) == (WORLD, 40000, NODE_IP, 8080)
    for flags in ("SA", "A"):
        result = proxy.to_netdev(outside() / tcp(NODE_IP, WORLD, 8080, 40000, flags))
        assert result.verdict == OK
        assert ends(result.packet) == (NODE_IP, NODE_PORT, WORLD, 40000)


def test_the_nodes_own_traffic_is_left_alone(proxy: Node) -> None:
    proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(POD_B.address, 8080)], flags=s.NODE_PORT)
    for packet in (
        tcp(WORLD, NODE_IP, dport=22),
        tcp(WORLD, NODE_IP, dport=22, flags="A"),
        tcp(WORLD, NODE_IP, dport=NODE_PORT, flags="A"),
        udp(WORLD, NODE_IP, dport=NODE_PORT),
        ping(WORLD, NODE_IP),
        error(WORLD, NODE_IP, tcp(NODE_IP, WORLD, 22, 40000)),
    ):
        result = proxy.from_netdev(outside() / packet)
        assert (result.verdict, result.forwards) == (OK, {})
        assert bytes(result.packet) == bytes(outside() / packet)
    for packet in (tcp(NODE_IP, WORLD, 22, 40000, "SA"), udp(NODE_IP, WORLD), ping(NODE_IP, WORLD)):
        result = proxy.to_netdev(outside() / packet)
        assert (result.verdict, bytes(result.packet)) == (OK, bytes(outside() / packet))


# -- affinity and Maglev -----------------------------------------------------------------------------------


def test_a_client_comes_back_to_its_backend(ebpf_proxy: Node) -> None:
    backends = [(POD_B.address, 8080 + i) for i in range(20)]
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, backends, affinity=600)
    chosen = {backend_of(ebpf_proxy, tcp(POD_A.address, VIP, sport)) for sport in range(30000, 30020)}
    assert len(chosen) == 1


def test_affinity_ends_with_its_timeout_and_with_its_backend(ebpf_proxy: Node) -> None:
    table = ebpf_proxy.maps["podwire_affinity4"]

    def only(port: int) -> None:
        ebpf_proxy.maps["podwire_affinity_backends4"].clear()
        ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, port)], affinity=600)

    def backend(sport: int) -> int:
        return backend_of(ebpf_proxy, tcp(POD_A.address, VIP, sport))[1]

    only(8080)
    assert backend(30000) == 8080
    only(9090)
    assert backend(30001) == 9090, "8080 is no member any more"
    member = {"service": 1, "address": n.number(POD_B.address), "port": 8080}
    ebpf_proxy.maps["podwire_affinity_backends4"].set(member, 1)
    ((key, value),) = table.items()
    table.set(key, value | {"port": 8080})
    assert backend(30002) == 8080
    ((key, value),) = table.items()
    table.set(key, value | {"used": earlier(value["used"], 601)})
    assert backend(30003) == 9090, "too long ago"


def test_clients_outside_have_affinity_by_their_address(ebpf_proxy: Node) -> None:
    backends = [(POD_B.address, 8080 + i) for i in range(50)]
    ebpf_proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, backends, flags=s.NODE_PORT, affinity=600)
    chosen = {
        client: {
            ends(ebpf_proxy.from_netdev(outside() / tcp(client, NODE_IP, sport, NODE_PORT)).packet)[3]
            for sport in range(30000, 30010)
        }
        for client in (f"198.51.100.{i}" for i in range(1, 9))
    }
    assert all(len(ports) == 1 for ports in chosen.values())
    assert len(set.union(*chosen.values())) > 1


def test_maglev_gives_a_client_the_same_backend_every_time(ebpf_proxy: Node) -> None:
    """And on every node: the table and the packet decide, not the node."""
    backends = [(POD_B.address, 8000 + i) for i in range(4)]
    flags = s.EXTERNAL_IP | s.MAGLEV
    listed = ebpf_proxy.services.expose(EXTERNAL, 80, TCP_PROTO, backends, flags=flags)
    ebpf_proxy.services.maglev(listed, [i % 3 for i in range(16381)])

    def choose() -> list[int]:
        ebpf_proxy.maps["podwire_ct4"].clear()
        packets = [outside() / tcp(WORLD, EXTERNAL, sport) for sport in range(30000, 30100)]
        return [ends(ebpf_proxy.from_netdev(packet).packet)[3] for packet in packets]

    first = choose()
    assert choose() == first
    assert set(first) == {8000, 8001, 8002}, "as the table says, which leaves the last one out"
    assert min(Counter(first).values()) > 15


# -- fragments, SCTP, errors, events -----------------------------------------------------------------------


def test_fragments_follow_their_first_one(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 8053)])
    pieces = fragment(udp(POD_A.address, VIP, dport=53, data=bytes(3000), id=77), fragsize=1480)
    assert len(pieces) == 3
    translated = [ebpf_proxy.from_pod(of(POD_A) / piece) for piece in pieces]
    assert all(result.forwards == {"PEER": 1} for result in translated)
    headers = [IP(bytes(result.packet[IP])) for result in translated]
    assert {(header.src, header.dst) for header in headers} == {(POD_A.address, POD_B.address)}
    whole = udp(POD_A.address, POD_B.address, dport=8053, data=bytes(3000))
    expected = IP(bytes(whole))[UDP]
    first = UDP(bytes(headers[0].payload))
    assert (first.dport, first.chksum) == (8053, expected.chksum)


def ports(packet: Packet) -> tuple[str, int, str, int]:
    """Ends of an SCTP packet whose checksums are right."""
    ip = checked(packet)
    data = bytes(ip)[ip.ihl * 4 :]
    return ip.src, int.from_bytes(data[:2], "big"), ip.dst, int.from_bytes(data[2:4], "big")


@pytest.mark.parametrize("length", [0, 1, 4, 255, 256, 1000, 1460])
def test_sctp_goes_to_another_port_with_a_right_checksum(ebpf_proxy: Node, length: int) -> None:
    """It is a CRC over the whole packet."""
    ebpf_proxy.services.expose(VIP, 5000, SCTP_PROTO, [(POD_B.address, 6001)])
    data = bytes(range(251)) * 6
    packet = sctp(POD_A.address, VIP, 40000, 5000, data[:length])
    for _ in range(2):
        result = ebpf_proxy.from_pod(of(POD_A) / packet)
        assert ports(result.packet) == (POD_A.address, 40000, POD_B.address, 6001)
    answer = sctp(POD_B.address, POD_A.address, 6001, 40000, data[:length])
    assert ports(ebpf_proxy.from_pod(of(POD_B) / answer, POD_B).packet) == (VIP, 5000, POD_A.address, 40000)


def test_an_sctp_checksum_that_the_device_computes_is_left_to_it(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 5000, SCTP_PROTO, [(POD_B.address, 6001)])
    packet = sctp(POD_A.address, VIP, 40000, 5000)
    packet[Raw].load = packet[Raw].load[:8] + bytes(4) + packet[Raw].load[12:]
    after = bytes(ebpf_proxy.from_pod(of(POD_A) / packet).packet[IP].payload)
    assert after[2:4] == (6001).to_bytes(2, "big") and after[8:12] == bytes(4)


def test_fragmented_sctp_reaches_the_same_port_only(ebpf_proxy: Node) -> None:
    for port, backend in ((5000, 5000), (5001, 6001)):
        ebpf_proxy.services.expose(VIP, port, SCTP_PROTO, [(POD_B.address, backend)])
        first = fragment(sctp(POD_A.address, VIP, 40000, port, bytes(3000)), fragsize=1480)[0]
        result = ebpf_proxy.from_pod(of(POD_A) / first)
        assert result.reason == (None if port == backend else NAT_UNSUPPORTED)


def test_an_sctp_node_port_reaches_another_node(ebpf_proxy: Node) -> None:
    node = ebpf_proxy
    node.services.expose(s.ANY, NODE_PORT, SCTP_PROTO, [(REMOTE_POD, 5000)], flags=s.NODE_PORT)
    result = node.from_netdev(outside() / sctp(WORLD, NODE_IP, 40000, NODE_PORT, b"data"))
    assert ports(result.packet) == (WORLD, 40000, REMOTE_POD, 5000)
    source, port, *destination = ports(node.to_netdev(result.packet, seen=n.SEEN_MASQUERADE).packet)
    assert (source, *destination) == (NODE_IP, REMOTE_POD, 5000)
    back = node.from_netdev(outside() / sctp(REMOTE_POD, NODE_IP, 5000, port, b"answer"))
    assert ports(back.packet) == (NODE_IP, NODE_PORT, WORLD, 40000)


def test_errors_quote_what_the_client_sent(ebpf_proxy: Node) -> None:
    """A router on the way to the backend: its own address stays, everything else is the service's."""
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(REMOTE_POD, 8053)])
    sent = ebpf_proxy.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=53, data=b"q" * 100))
    about = IP(bytes(sent.packet[IP]))
    result = ebpf_proxy.from_netdev(outside() / error("10.9.9.9", POD_A.address, about))
    assert result.forwards == {"PEER": 1}
    ip = checked(result.packet)
    assert (ip.src, ip.dst) == ("10.9.9.9", POD_A.address)
    assert (ip[IPerror].dst, ip[UDPerror].dport, ip[UDPerror].sport) == (VIP, 53, 40000)


def test_a_backends_own_error_comes_from_the_service(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 8053)])
    sent = ebpf_proxy.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=53))
    about = IP(bytes(sent.packet[IP]))
    result = ebpf_proxy.from_pod(of(POD_B) / error(POD_B.address, POD_A.address, about, code=3), POD_B)
    ip = checked(result.packet)
    assert (ip.src, ip.dst, ip[IPerror].dst, ip[UDPerror].dport) == (VIP, POD_A.address, VIP, 53)


def test_a_clients_error_reaches_the_backend_about_its_own_packet(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 8053)])
    ebpf_proxy.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=53))
    answer = ebpf_proxy.from_pod(of(POD_B) / udp(POD_B.address, POD_A.address, 8053, 40000), POD_B)
    about = IP(bytes(answer.packet[IP]))
    result = ebpf_proxy.from_pod(of(POD_A) / error(POD_A.address, VIP, about, code=3))
    ip = checked(result.packet)
    assert result.forwards == {"PEER": 1} and result.packet.dst == POD_B.mac
    assert (ip.src, ip.dst) == (POD_A.address, POD_B.address)
    assert (ip[IPerror].src, ip[UDPerror].sport) == (POD_B.address, 8053)


def test_a_client_outside_reports_about_a_remote_backend(ebpf_proxy: Node) -> None:
    """ "Fragmentation needed" on the way back to the client must reach the backend that sends too much."""
    node = ebpf_proxy
    node.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(REMOTE_POD, 8080)], flags=s.NODE_PORT)
    sent = node.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
    port = ends(node.to_netdev(sent.packet, seen=n.SEEN_MASQUERADE).packet)[1]
    answer = node.from_netdev(outside() / tcp(REMOTE_POD, NODE_IP, 8080, port, "SA"))
    about = IP(bytes(answer.packet[IP]))
    result = node.from_netdev(outside() / error(WORLD, NODE_IP, about))
    assert result.forwards == {"NEIGH": 1}
    leaving = node.to_netdev(result.packet, seen=n.SEEN_MASQUERADE)
    ip = checked(leaving.packet)
    assert (ip.src, ip.dst) == (NODE_IP, REMOTE_POD)
    assert (ip[IPerror].src, ip[IPerror].dst) == (REMOTE_POD, NODE_IP)
    assert (ip[TCPerror].sport, ip[TCPerror].dport) == (8080, port)


def test_the_stacks_error_about_a_translated_packet_quotes_the_service(proxy: Node) -> None:
    proxy.services.expose(VIP, 53, UDP_PROTO, [(POD_B.address, 8053)])
    sent = proxy.from_pod(of(POD_A) / udp(POD_A.address, VIP, dport=53, ttl=1))
    assert sent.verdict == OK, "only the stack says that time is exceeded"
    about = IP(bytes(sent.packet[IP]))
    result = proxy.to_pod(of(POD_B) / error(NODE_IP, POD_A.address, about, kind=11, code=0))
    ip = checked(result.packet)
    assert (ip.src, ip[IPerror].dst, ip[UDPerror].dport) == (NODE_IP, VIP, 53)


def test_new_connections_are_reported(ebpf_proxy: Node) -> None:
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)], service=42)
    (event,) = ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP)).translations
    assert event["service"] == 42 and event["program"] == 1 and event["direction"] == 2
    assert (event["destination_address"], event["destination_port"]) == (n.number(VIP), 80)
    assert (event["new_destination_address"], event["new_destination_port"]) == (
        n.number(POD_B.address),
        8080,
    )
    assert (event["source_address"], event["source_port"]) == (n.number(POD_A.address), 40000)
    assert ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP, flags="A")).translations == []


def test_busy_services_hide_no_drops(ebpf_proxy: Node) -> None:
    ebpf_proxy.load(cfg_services=1, cfg_event_rate=3)
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    sent = [
        len(ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP, sport)).translations)
        for sport in range(30000, 30020)
    ]
    assert 3 <= sum(sent) <= 6, "a second may have ended between"
    assert ebpf_proxy.from_pod(of(POD_A) / tcp(POD_B.address, VIP)).reason == 132


def test_the_hosts_own_errors_pass_whatever_they_quote(proxy: Node) -> None:
    for about in (tcp(WORLD, NODE_IP), udp(WORLD, NODE_IP, data=b"")):
        for quote in (8, 20, 24, 60):
            packet = outside() / error(NODE_IP, WORLD, about, quote=quote)
            result = proxy.to_netdev(packet)
            assert (result.verdict, bytes(result.packet)) == (OK, bytes(packet))


def test_a_replaced_list_is_read_again(ebpf_proxy: Node) -> None:
    """The frontend names a list that is gone: nothing to wait for."""
    ebpf_proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    ebpf_proxy.maps["podwire_backends4"].clear()
    assert ebpf_proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP)).forwards == {"REJECTED": 1}


def test_a_spoofed_source_reaches_no_service(proxy: Node) -> None:
    proxy.services.expose(VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    result = proxy.from_pod(of(POD_A) / tcp(POD_B.address, VIP))
    assert (result.verdict, result.reason) == (SHOT, 132)
    proxy.from_pod(of(POD_A) / tcp(POD_A.address, VIP))
    stolen = proxy.from_pod(of(POD_B) / tcp(POD_A.address, VIP, flags="A"), POD_B)
    assert stolen.reason == 132


@pytest.mark.parametrize("backend", [POD_B.address, REMOTE_POD, NODE_IP])
@pytest.mark.parametrize("pretended", [POD_A.address, NODE_IP])
def test_nobody_outside_pretends_to_be_a_client_of_this_node(
    proxy: Node, backend: str, pretended: str
) -> None:
    proxy.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(backend, 8080)], flags=s.NODE_PORT)
    proxy.from_pod(of(POD_A) / tcp(POD_A.address, NODE_IP, dport=NODE_PORT))
    for flags in ("S", "A") if pretended == POD_A.address else ("S",):
        packet = outside() / tcp(pretended, NODE_IP, dport=NODE_PORT, flags=flags)
        assert proxy.from_netdev(packet).reason == 132
