"""Pods talk to the world with the node's address, and hear back."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, TCPerror, UDPerror
from scapy.packet import Packet, Raw

from tests.bpf import node as n
from tests.bpf.node import (
    LEGACY,
    MASQUERADED,
    NAT_PORTS,
    NODE_IP,
    OK,
    OTHER_NODE,
    POD_A,
    POD_B,
    REMOTE_POD,
    ROUTER,
    VIA_STACK,
    WORLD,
    Node,
)
from tests.bpf.packets import (
    ICMP_PROTO,
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

FIN_POD, FIN_WORLD, RST = 1, 2, 4


def leave(node: Node, packet: Packet, pod: n.Pod = POD_A) -> Packet:
    """Send a pod's packet to the world; returns the IP packet on the wire."""
    sent = node.from_pod(of(pod) / packet, pod)
    assert sent.reason is None
    result = node.to_netdev(outside() / packet, seen=n.SEEN_MASQUERADE)
    assert (result.verdict, result.forwards) == (OK, {"MASQUERADED": 1})
    return checked(result.packet)


def come_back(node: Node, packet: Packet) -> Packet:
    """An answer arrives at the node; returns the IP packet as the pod gets it."""
    result = node.from_netdev(outside() / packet)
    assert result.forwards.pop("UNMASQUERADED") == 1
    assert result.forwards in ({"PEER": 1}, {"STACK": 1})
    return checked(result.packet)


def test_tcp_leaves_with_the_nodes_address_and_returns_to_the_pod(either: Node) -> None:
    wire = leave(either, tcp(POD_A.address, WORLD))
    assert wire.src == NODE_IP
    assert NAT_PORTS[0] <= wire[TCP].sport <= NAT_PORTS[1]
    assert (wire.dst, wire[TCP].dport, wire[TCP].load) == (WORLD, 80, b"payload")
    answer = come_back(either, tcp(WORLD, NODE_IP, 80, wire[TCP].sport, "SA"))
    assert (answer.src, answer.dst, answer[TCP].sport, answer[TCP].dport) == (WORLD, POD_A.address, 80, 40000)
    again = leave(either, tcp(POD_A.address, WORLD, flags="A"))
    assert again[TCP].sport == wire[TCP].sport, "one connection, one port"


def test_udp_leaves_with_the_nodes_address_and_returns_to_the_pod(either: Node) -> None:
    wire = leave(either, udp(POD_A.address, WORLD))
    assert wire.src == NODE_IP
    answer = come_back(either, udp(WORLD, NODE_IP, 53, wire[UDP].sport))
    assert (answer.dst, answer[UDP].dport) == (POD_A.address, 40000)


def test_a_datagram_without_checksum_stays_without(either: Node) -> None:
    packet = udp(POD_A.address, WORLD)
    packet[UDP].chksum = 0
    wire = leave(either, packet)
    assert (wire.src, wire[UDP].chksum) == (NODE_IP, 0)
    answer = udp(WORLD, NODE_IP, 53, wire[UDP].sport)
    answer[UDP].chksum = 0
    assert come_back(either, answer)[UDP].chksum == 0


def test_a_checksum_that_becomes_zero_is_written_as_ones(node: Node) -> None:
    """RFC 768: 0 would say that there is none."""
    wire = leave(node, udp(POD_A.address, WORLD, 61000, 53, b"\0\0"))
    # The checksum of the same datagram with payload 0, taken as payload, makes the sum come out as 0.
    data = wire[UDP].chksum.to_bytes(2, "big")
    wire = leave(node, udp(POD_A.address, WORLD, 61000, 53, data))
    assert wire[UDP].chksum == 0xFFFF


def test_ping_leaves_with_the_nodes_address_and_returns_to_the_pod(either: Node) -> None:
    wire = leave(either, ping(POD_A.address, WORLD))
    assert wire.src == NODE_IP
    assert NAT_PORTS[0] <= wire[ICMP].id <= NAT_PORTS[1]
    answer = come_back(either, ping(WORLD, NODE_IP, wire[ICMP].id, reply=True))
    assert (answer.dst, answer[ICMP].id) == (POD_A.address, 7)


@pytest.mark.parametrize("port", [NAT_PORTS[0], 61500, NAT_PORTS[1]])
def test_the_pods_own_port_is_kept_when_it_is_free(node: Node, port: int) -> None:
    assert leave(node, tcp(POD_A.address, WORLD, port))[TCP].sport == port
    assert leave(node, udp(POD_A.address, WORLD, port))[UDP].sport == port
    other = leave(node, tcp(POD_B.address, WORLD, port), POD_B)[TCP].sport
    assert other != port, "taken by the first pod"
    assert NAT_PORTS[0] <= other <= NAT_PORTS[1]
    assert come_back(node, tcp(WORLD, NODE_IP, 80, port, "SA")).dst == POD_A.address
    assert come_back(node, tcp(WORLD, NODE_IP, 80, other, "SA")).dst == POD_B.address


def test_one_port_serves_several_destinations(node: Node) -> None:
    for destination in (WORLD, "203.0.113.8"):
        assert leave(node, tcp(POD_A.address, destination, 61000))[TCP].sport == 61000


@pytest.mark.parametrize("destination", [REMOTE_POD, OTHER_NODE])
def test_the_cluster_sees_the_pods_address(either: Node, destination: str) -> None:
    packet = outside() / tcp(POD_A.address, destination)
    either.from_pod(of(POD_A) / tcp(POD_A.address, destination))
    for seen in (n.SEEN_DIRECT, 0):
        result = either.to_netdev(packet, seen=seen)
        assert (result.verdict, result.forwards, bytes(result.packet)) == (OK, {}, bytes(packet))


def test_ranges_named_as_cluster_are_not_masqueraded(either: Node) -> None:
    either.know("203.0.113.0/24", n.CLUSTER)
    result = either.to_netdev(outside() / tcp(POD_A.address, WORLD))
    assert result.forwards == {}


def test_without_masquerading_pods_keep_their_address(devices: None, objects: Any) -> None:
    with Node(objects, cfg_masquerade=0) as node:
        node.from_pod(of(POD_A) / tcp(POD_A.address, WORLD))
        entry = node.ct(POD_A.address, WORLD, TCP_PROTO, 40000, 80)
        assert entry is not None and not entry["flags"] & n.MASQUERADED
        for seen in (n.SEEN_DIRECT, 0):
            assert (
                node.to_netdev(outside() / tcp(POD_A.address, WORLD), seen=seen).packet[IP].src
                == POD_A.address
            )


def test_answers_to_connections_from_outside_keep_the_pods_address(either: Node) -> None:
    """Someone outside reached the pod by its own address and expects the answer from it."""
    either.from_netdev(outside() / tcp(WORLD, POD_A.address, 5555, 80))
    either.from_pod(of(POD_A) / tcp(POD_A.address, WORLD, 80, 5555, "SA"))
    entry = either.ct(POD_A.address, WORLD, TCP_PROTO, 80, 5555)
    assert entry is not None and not entry["flags"] & (n.MASQUERADED | n.ORIGINAL)


def test_a_switch_of_modes_keeps_mappings(node: Node) -> None:
    port = leave(node, tcp(POD_A.address, WORLD))[TCP].sport
    node.load(cfg_host_routing=LEGACY)
    assert leave(node, tcp(POD_A.address, WORLD, flags="A"))[TCP].sport == port
    assert come_back(node, tcp(WORLD, NODE_IP, 80, port, "A")).dst == POD_A.address


def test_a_translated_packet_is_masqueraded_and_answered_through_the_stack(either: Node) -> None:
    """kube-proxy chose a backend outside the cluster: netfilter must see what comes back."""
    result = either.to_netdev(outside() / tcp(POD_A.address, WORLD))
    assert result.forwards == {"MASQUERADED": 1}
    port = checked(result.packet)[TCP].sport
    answer = either.from_netdev(outside() / tcp(WORLD, NODE_IP, 80, port, "SA"))
    assert (answer.verdict, answer.forwards) == (OK, {"UNMASQUERADED": 1, "STACK_TRANSLATED": 1})
    assert checked(answer.packet).dst == POD_A.address


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(tcp(WORLD, NODE_IP, 80, 61000, "SA"), id="in-range-without-mapping"),
        pytest.param(tcp(WORLD, NODE_IP, 80, 22, "SA"), id="out-of-range"),
        pytest.param(ping(WORLD, NODE_IP), id="ping-to-the-node"),
        pytest.param(error(ROUTER, NODE_IP, tcp(NODE_IP, WORLD, 33000, 80)), id="error-about-the-node"),
        pytest.param(
            error(ROUTER, NODE_IP, tcp(NODE_IP, WORLD), quote=10), id="error-that-quotes-too-little"
        ),
        pytest.param(IP(src=WORLD, dst=NODE_IP, proto=4) / Raw(bytes(20)), id="tunnel-to-the-node"),
    ],
)
def test_the_nodes_own_answers_are_left_alone(either: Node, packet: Packet) -> None:
    frame = outside() / packet
    result = either.from_netdev(frame)
    assert (result.verdict, result.forwards, bytes(result.packet)) == (OK, {}, bytes(frame))


def test_the_path_mtu_reaches_the_pod(either: Node) -> None:
    sent = tcp(POD_A.address, WORLD, flags="A", id=77)
    leave(either, tcp(POD_A.address, WORLD))
    wire = leave(either, sent)
    result = either.from_netdev(outside() / error(ROUTER, NODE_IP, wire))
    assert result.forwards.pop("UNMASQUERADED") == 1
    told = checked(result.packet)
    assert (told.src, told.dst) == (ROUTER, POD_A.address)
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1400)
    assert (told[IPerror].src, told[IPerror].dst) == (POD_A.address, WORLD)
    assert (told[TCPerror].sport, told[TCPerror].dport) == (40000, 80)


@pytest.mark.parametrize("quote", [28, 60, 548])
@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(udp(POD_A.address, WORLD, data=b"d" * 64), id="udp"),
        pytest.param(tcp(POD_A.address, WORLD), id="tcp"),
        pytest.param(ping(POD_A.address, WORLD), id="ping"),
        pytest.param(udp(POD_A.address, WORLD, options=[b"\x94\x04\0\0"], data=b"d" * 64), id="ip-options"),
    ],
)
def test_errors_about_masqueraded_packets_reach_the_pod(either: Node, packet: Packet, quote: int) -> None:
    wire = leave(either, packet)
    if quote < len(wire[IP].payload) and wire.ihl > 5:
        quote += 4
    told = come_back_error(either, error(ROUTER, NODE_IP, wire, kind=11, code=0, quote=quote))
    assert (told.dst, told[IPerror].src) == (POD_A.address, POD_A.address)
    for layer, name in ((UDPerror, "sport"), (TCPerror, "sport"), (ICMPerror, "id")):
        if told.haslayer(layer):
            assert getattr(told[layer], name) == (7 if layer is ICMPerror else 40000)
    # Rebuilt from what the pod sent, byte for byte: the pod's stack must recognise its own packet.
    original = IP(bytes(packet))
    if isinstance(original.payload, Packet) and told.haslayer(UDPerror) and quote > 36:
        assert told[UDPerror].chksum == original[UDP].chksum


def come_back_error(node: Node, packet: Packet) -> Packet:
    result = node.from_netdev(outside() / packet)
    assert result.forwards.pop("UNMASQUERADED") == 1
    assert result.reason is None
    return checked(result.packet)


def test_a_pods_own_error_about_an_answer_names_the_masqueraded_connection(either: Node) -> None:
    """The pod closed its socket: its "port unreachable" must make sense to the peer."""
    wire = leave(either, udp(POD_A.address, WORLD))
    answer = udp(WORLD, POD_A.address, 53, 40000)
    complaint = error(POD_A.address, WORLD, answer, code=3)
    assert either.from_pod(of(POD_A) / complaint).reason is None
    result = either.to_netdev(outside() / complaint, seen=n.SEEN_MASQUERADE)
    assert result.forwards == {"MASQUERADED": 1}
    told = checked(result.packet)
    assert (told.src, told[IPerror].dst, told[UDPerror].dport) == (NODE_IP, NODE_IP, wire[UDP].sport)


def test_a_pods_error_about_a_connection_from_outside_is_not_masqueraded(either: Node) -> None:
    opened = udp(WORLD, POD_A.address, 5555, 53)
    either.from_netdev(outside() / opened)
    complaint = error(POD_A.address, WORLD, opened, code=3)
    result = either.to_netdev(outside() / complaint, seen=n.SEEN_MASQUERADE)
    assert (result.verdict, result.forwards) == (OK, {})
    assert checked(result.packet).src == POD_A.address


def test_an_error_about_nothing_is_refused(either: Node) -> None:
    complaint = error(POD_A.address, WORLD, udp(WORLD, POD_A.address), code=3)
    assert either.to_netdev(outside() / complaint, seen=n.SEEN_MASQUERADE).reason == 167


def test_mappings_remember_both_directions(node: Node) -> None:
    port = leave(node, tcp(POD_A.address, WORLD))[TCP].sport
    forward = node.nat(POD_A.address, WORLD, TCP_PROTO, 40000, 80)
    reverse = node.nat(WORLD, NODE_IP, TCP_PROTO, 80, port)
    assert forward is not None and reverse is not None
    assert (forward["address"], forward["port"], forward["reverse"]) == (n.number(NODE_IP), port, 0)
    assert (reverse["address"], reverse["port"], reverse["reverse"]) == (n.number(POD_A.address), 40000, 1)


def test_no_free_port_is_a_drop_with_a_reason(devices: None, objects: Any) -> None:
    with Node(objects, cfg_nat_port_min=61000, cfg_nat_port_max=61001) as node:
        for index in range(2):
            leave(node, udp(POD_A.address, WORLD, 1000 + index))
        refused = node.to_netdev(outside() / udp(POD_A.address, WORLD, 1002), seen=n.SEEN_MASQUERADE)
        assert refused.reason == 167
        leave(node, udp(POD_A.address, "203.0.113.8", 1002))


@pytest.mark.parametrize(
    ("packet", "state", "idle", "free"),
    [
        pytest.param(udp, {}, 270, False, id="udp-in-use"),
        pytest.param(udp, {}, 301, True, id="udp-idle"),
        pytest.param(udp, {}, -1, False, id="udp-seen-by-another-cpu-after-the-clock-was-read"),
        pytest.param(tcp, {}, 3600, False, id="tcp-idle-for-an-hour"),
        pytest.param(tcp, {}, 86401, True, id="tcp-idle-for-a-day"),
        pytest.param(tcp, {"closing": RST}, 5, False, id="tcp-just-reset"),
        pytest.param(tcp, {"closing": RST}, 11, True, id="tcp-reset"),
        pytest.param(tcp, {"closing": FIN_POD | FIN_WORLD}, 11, True, id="tcp-closed"),
        pytest.param(tcp, {"closing": FIN_POD}, 11, False, id="tcp-half-closed-by-the-pod"),
        pytest.param(tcp, {"closing": FIN_WORLD}, 11, False, id="tcp-half-closed-by-the-world"),
    ],
)
def test_ports_of_finished_flows_are_used_again(
    devices: None, objects: Any, packet: Any, state: dict[str, int], idle: int, free: bool
) -> None:
    protocol = UDP_PROTO if packet is udp else TCP_PROTO
    with Node(objects, cfg_nat_port_min=61000, cfg_nat_port_max=61000) as node:
        leave(node, packet(POD_A.address, WORLD, 1000, 80))
        held = n.tuple4(WORLD, NODE_IP, protocol, 80, 61000)
        mapping = node.maps["podwire_nat4"].get(held)
        node.maps["podwire_nat4"].set(
            held, mapping | state | {"last_seen": (mapping["last_seen"] - idle * 10**9) % 2**64}
        )
        result = node.to_netdev(outside() / packet(POD_B.address, WORLD, 1000, 80), seen=n.SEEN_MASQUERADE)
        assert result.reason == (None if free else 167)


@pytest.mark.parametrize(("flags", "by_pod", "by_world"), [("FA", FIN_POD, FIN_WORLD), ("R", RST, RST)])
def test_goodbyes_are_noticed(node: Node, flags: str, by_pod: int, by_world: int) -> None:
    port = leave(node, tcp(POD_A.address, WORLD))[TCP].sport
    come_back(node, tcp(WORLD, NODE_IP, 80, port, flags))
    assert closing(node, port) == by_world
    leave(node, tcp(POD_A.address, WORLD, flags=flags))
    assert closing(node, port) == by_world | by_pod
    assert leave(node, tcp(POD_A.address, WORLD))[TCP].sport == port
    assert closing(node, port) == 0, "a SYN opens the connection again"


def closing(node: Node, port: int) -> int:
    reverse = node.nat(WORLD, NODE_IP, TCP_PROTO, 80, port)
    assert reverse is not None
    return int(reverse["closing"])


def age(node: Node, flow: dict[str, int], seconds: int) -> None:
    mapping = node.maps["podwire_nat4"].get(flow)
    then = (mapping["last_seen"] - seconds * 10**9) % 2**64
    node.maps["podwire_nat4"].set(flow, mapping | {"last_seen": then, "checked": then, "seen_jiffies": 0})


def test_a_flow_that_is_never_answered_keeps_its_port(node: Node) -> None:
    """Outgoing packets alone must keep the entry for answers from looking idle."""
    port = leave(node, udp(POD_A.address, WORLD))[UDP].sport
    forward = n.tuple4(POD_A.address, WORLD, UDP_PROTO, 40000, 53)
    reverse = n.tuple4(WORLD, NODE_IP, UDP_PROTO, 53, port)
    for flow in (forward, reverse):
        age(node, flow, 400)
    old = node.maps["podwire_nat4"].get(reverse)["last_seen"]
    leave(node, udp(POD_A.address, WORLD))
    assert (node.maps["podwire_nat4"].get(reverse)["last_seen"] - old) % 2**64 >= 400 * 10**9


def test_a_forgotten_entry_for_answers_is_made_again(node: Node) -> None:
    port = leave(node, udp(POD_A.address, WORLD))[UDP].sport
    node.maps["podwire_nat4"].delete(n.tuple4(WORLD, NODE_IP, UDP_PROTO, 53, port))
    age(node, n.tuple4(POD_A.address, WORLD, UDP_PROTO, 40000, 53), 2)
    assert leave(node, udp(POD_A.address, WORLD))[UDP].sport == port
    assert come_back(node, udp(WORLD, NODE_IP, 53, port)).dst == POD_A.address


def test_a_flow_that_lost_its_port_gets_another(devices: None, objects: Any) -> None:
    with Node(objects, cfg_nat_port_min=61000, cfg_nat_port_max=61001) as node:
        port = leave(node, udp(POD_A.address, WORLD))[UDP].sport
        held = n.tuple4(WORLD, NODE_IP, UDP_PROTO, 53, port)
        thief = {"address": n.number(POD_B.address), "port": 1}
        node.maps["podwire_nat4"].set(held, node.maps["podwire_nat4"].get(held) | thief)
        age(node, n.tuple4(POD_A.address, WORLD, UDP_PROTO, 40000, 53), 2)
        result = node.to_netdev(outside() / udp(POD_A.address, WORLD), seen=n.SEEN_MASQUERADE)
        assert result.reason == 167 or checked(result.packet)[UDP].sport != port


def test_a_mapping_of_an_address_the_node_lost_is_replaced(node: Node) -> None:
    leave(node, udp(POD_A.address, WORLD))
    node.load(cfg_node_ip4=n.number("192.0.2.99"))
    result = node.to_netdev(outside() / udp(POD_A.address, WORLD), seen=n.SEEN_MASQUERADE)
    assert checked(result.packet).src == "192.0.2.99"


def test_sctp_to_the_world_is_masqueraded(either: Node) -> None:
    packet = sctp(POD_A.address, WORLD, 40000, 5000, b"data")
    left = checked(either.to_netdev(outside() / packet, seen=n.SEEN_MASQUERADE).packet)
    port = int.from_bytes(bytes(left.payload)[:2], "big")
    assert left.src == NODE_IP and n.NAT_PORTS[0] <= port <= n.NAT_PORTS[1]
    back = either.from_netdev(outside() / sctp(WORLD, NODE_IP, 5000, port, b"answer"))
    ip = checked(back.packet)
    assert (ip.dst, bytes(ip.payload)[2:4]) == (POD_A.address, (40000).to_bytes(2, "big"))


def test_an_echo_reply_that_answers_nothing_is_refused(either: Node) -> None:
    result = either.to_netdev(outside() / ping(POD_A.address, WORLD, reply=True), seen=n.SEEN_MASQUERADE)
    assert result.reason == 168


def test_identifiers_of_pings_do_not_clash(node: Node) -> None:
    first = leave(node, ping(POD_A.address, WORLD, 61000))[ICMP].id
    second = leave(node, ping(POD_B.address, WORLD, 61000), POD_B)[ICMP].id
    assert first == 61000 and second != first
    assert node.nat(WORLD, NODE_IP, ICMP_PROTO, 0, second) is not None


@pytest.mark.parametrize("protocol", [tcp, udp])
def test_a_connection_stays_masqueraded_when_conntrack_forgets_it(either: Node, protocol: Any) -> None:
    """The table was made anew, and the next packet is the world's: a download."""
    layer, more = (TCP, ("A",)) if protocol is tcp else (UDP, ())
    there = protocol(POD_A.address, WORLD, 40000, 80)
    wire = leave(either, there)
    either.maps["podwire_ct4"].clear()
    result = either.from_netdev(outside() / protocol(WORLD, NODE_IP, 80, wire[layer].sport, *more))
    assert result.forwards["UNMASQUERADED"] == 1

    again = protocol(POD_A.address, WORLD, 40000, 80, *more)
    assert either.from_pod(of(POD_A) / again).reason is None
    flow = (POD_A.address, WORLD, TCP_PROTO if protocol is tcp else UDP_PROTO, 40000, 80)
    seen = 0 if either.ct(*flow)["flags"] & VIA_STACK else n.SEEN_MASQUERADE
    left = either.to_netdev(outside() / again, seen=seen)
    assert left.forwards == {"MASQUERADED": 1}
    assert checked(left.packet)[layer].sport == wire[layer].sport
    assert either.ct(*flow)["flags"] & MASQUERADED
