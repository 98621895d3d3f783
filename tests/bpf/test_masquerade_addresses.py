"""A node with two devices: pods' packets leave by each with the address that answers to it will find."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, UDPerror, fragment
from scapy.packet import Packet

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NAT_PORTS, NODE_IP, OK, OTHER_NODE, POD_A, POD_B, ROUTER, SECOND_IP, WORLD, Node
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, checked, error, of, outside, ping, sctp, tcp, udp

SECOND = "eth1"
NODE_PORT = 30080


@pytest.fixture
def two(either: Node) -> Node:
    """A node, in either mode, whose second device has an address of its own."""
    either.leave_as(SECOND_IP)
    return either


def leave(node: Node, packet: Packet, device: str = SECOND) -> Packet:
    """Send a packet of pod a out of ``device``; returns the IP packet on the wire."""
    assert node.from_pod(of(POD_A) / packet).reason is None
    result = node.to_netdev(outside() / packet, device, seen=n.SEEN_MASQUERADE)
    assert (result.verdict, result.forwards) == (OK, {"MASQUERADED": 1})
    return checked(result.packet)


def come_back(node: Node, packet: Packet, device: str = SECOND) -> Packet:
    """An answer arrives; returns the IP packet as pod a gets it."""
    result = node.from_netdev(outside() / packet, device)
    assert result.forwards.pop("UNMASQUERADED") == 1
    assert result.forwards in ({"PEER": 1}, {"STACK": 1})
    told = checked(result.packet)
    assert told.dst == POD_A.address
    return told


@pytest.mark.parametrize(("device", "address"), [("eth0", NODE_IP), (SECOND, SECOND_IP)])
def test_packets_leave_with_the_address_of_their_device(two: Node, device: str, address: str) -> None:
    wire = leave(two, tcp(POD_A.address, WORLD), device)
    assert wire.src == address
    answer = come_back(two, tcp(WORLD, address, 80, wire[TCP].sport, "SA"), device)
    assert (answer.src, answer[TCP].sport, answer[TCP].dport) == (WORLD, 80, 40000)

    wire = leave(two, udp(POD_A.address, WORLD), device)
    assert wire.src == address
    assert come_back(two, udp(WORLD, address, 53, wire[UDP].sport), device)[UDP].dport == 40000

    wire = leave(two, ping(POD_A.address, WORLD), device)
    assert wire.src == address
    assert come_back(two, ping(WORLD, address, wire[ICMP].id, reply=True), device)[ICMP].id == 7

    wire = leave(two, sctp(POD_A.address, WORLD, 40000, 5000, b"data"), device)
    port = int.from_bytes(bytes(wire.payload)[:2], "big")
    assert wire.src == address
    back = come_back(two, sctp(WORLD, address, 5000, port, b"answer"), device)
    assert bytes(back.payload)[2:4] == (40000).to_bytes(2, "big")


def test_a_device_of_which_nothing_is_known_gives_the_nodes_address(either: Node) -> None:
    wire = leave(either, udp(POD_A.address, WORLD))
    assert wire.src == NODE_IP
    come_back(either, udp(WORLD, NODE_IP, 53, wire[UDP].sport))


def test_ports_are_per_address(devices: None, objects: Any) -> None:
    with Node(objects, cfg_nat_port_min=61000, cfg_nat_port_max=61000) as node:
        node.leave_as(SECOND_IP)
        assert leave(node, udp(POD_A.address, WORLD, 1000), "eth0")[UDP].sport == 61000
        assert leave(node, udp(POD_A.address, WORLD, 1001))[UDP].sport == 61000
        assert come_back(node, udp(WORLD, NODE_IP, 53, 61000), "eth0")[UDP].dport == 1000
        assert come_back(node, udp(WORLD, SECOND_IP, 53, 61000))[UDP].dport == 1001


def test_fragments_leave_with_the_address_of_their_device(two: Node) -> None:
    pieces = fragment(udp(POD_A.address, WORLD, data=b"f" * 3000, id=9), 1480)
    assert len(pieces) == 3
    sent = []
    for piece in pieces:
        assert two.from_pod(of(POD_A) / piece).reason is None
        result = two.to_netdev(outside() / piece, SECOND, seen=n.SEEN_MASQUERADE)
        assert result.forwards == {"MASQUERADED": 1}
        sent.append(result.packet)
    assert {piece[IP].src for piece in sent} == {SECOND_IP}
    port = sent[0][UDP].sport
    for piece in fragment(udp(WORLD, SECOND_IP, 53, port, b"g" * 3000, id=10), 1480):
        result = two.from_netdev(outside() / piece, SECOND)
        assert result.forwards["UNMASQUERADED"] == 1
        assert result.packet[IP].dst == POD_A.address


def test_the_path_mtu_behind_the_second_device_reaches_the_pod(two: Node) -> None:
    leave(two, tcp(POD_A.address, WORLD))
    wire = leave(two, tcp(POD_A.address, WORLD, flags="A", id=77))
    told = come_back(two, error(ROUTER, SECOND_IP, wire))
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1400)
    assert (told[IPerror].src, told[IPerror].dst) == (POD_A.address, WORLD)
    assert (told[TCPerror].sport, told[TCPerror].dport) == (40000, 80)


def test_an_error_is_told_to_whom_it_quotes(two: Node) -> None:
    """It quotes a masqueraded packet, but was not sent to the address which that came from."""
    wire = leave(two, udp(POD_A.address, WORLD))
    for target in (NODE_IP, POD_B.address):
        assert "UNMASQUERADED" not in two.from_netdev(outside() / error(ROUTER, target, wire)).forwards


def test_a_pods_own_error_names_the_connection_by_the_devices_address(two: Node) -> None:
    wire = leave(two, udp(POD_A.address, WORLD))
    complaint = error(POD_A.address, WORLD, udp(WORLD, POD_A.address, 53, 40000), code=3)
    result = two.to_netdev(outside() / complaint, SECOND, seen=n.SEEN_MASQUERADE)
    told = checked(result.packet)
    assert (told.src, told[IPerror].dst, told[UDPerror].dport) == (SECOND_IP, SECOND_IP, wire[UDP].sport)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(tcp(WORLD, SECOND_IP, 80, 61000, "SA"), id="in-range-without-mapping"),
        pytest.param(tcp(WORLD, SECOND_IP, 80, 22, "SA"), id="out-of-range"),
        pytest.param(ping(WORLD, SECOND_IP), id="ping-to-the-node"),
        pytest.param(error(ROUTER, SECOND_IP, tcp(SECOND_IP, WORLD, 33000, 80)), id="error-about-the-node"),
        pytest.param(
            error(ROUTER, SECOND_IP, tcp(SECOND_IP, WORLD), quote=10), id="error-that-quotes-too-little"
        ),
    ],
)
def test_the_nodes_own_answers_are_left_alone(two: Node, packet: Packet) -> None:
    frame = outside() / packet
    result = two.from_netdev(frame, SECOND)
    assert (result.verdict, result.forwards, bytes(result.packet)) == (OK, {}, bytes(frame))


@pytest.mark.parametrize("port", [NAT_PORTS[0], NAT_PORTS[1]])
def test_pods_may_use_the_ports_of_the_range_themselves(two: Node, port: int) -> None:
    result = two.from_netdev(outside() / udp(n.REMOTE_POD, POD_A.address, 53, port))
    assert "UNMASQUERADED" not in result.forwards
    assert (checked(result.packet).dst, result.packet[UDP].dport) == (POD_A.address, port)


def test_a_tcp_connection_keeps_its_address_when_its_route_changes(two: Node) -> None:
    wire = leave(two, tcp(POD_A.address, WORLD), "eth0")
    moved = leave(two, tcp(POD_A.address, WORLD, flags="A"))
    assert (moved.src, moved[TCP].sport) == (NODE_IP, wire[TCP].sport)
    come_back(two, tcp(WORLD, NODE_IP, 80, wire[TCP].sport, "A"))
    assert leave(two, tcp(POD_A.address, WORLD)).src == SECOND_IP, "a SYN opens a connection of its own"


@pytest.mark.parametrize("flags", ["A", "FA", "R"])
def test_a_tcp_connection_loses_an_address_that_the_node_lost(two: Node, flags: str) -> None:
    leave(two, tcp(POD_A.address, WORLD))
    two.maps["podwire_endpoints4"].delete({"address": n.number(SECOND_IP)})
    two.maps["podwire_masquerade4"].delete({"ifindex": n.device_index(SECOND)})
    result = two.to_netdev(outside() / tcp(POD_A.address, WORLD, flags=flags), SECOND, seen=n.SEEN_MASQUERADE)
    assert checked(result.packet).src == NODE_IP


def test_datagrams_take_the_address_of_the_device_they_leave_by_now(two: Node) -> None:
    first = leave(two, udp(POD_A.address, WORLD), "eth0")
    second = leave(two, udp(POD_A.address, WORLD))
    assert (first.src, second.src) == (NODE_IP, SECOND_IP)
    come_back(two, udp(WORLD, SECOND_IP, 53, second[UDP].sport))
    come_back(two, udp(WORLD, NODE_IP, 53, first[UDP].sport))


def test_a_mapping_of_an_address_that_the_device_lost_is_replaced(two: Node) -> None:
    leave(two, udp(POD_A.address, WORLD))
    two.leave_as("198.18.0.99")
    assert leave(two, udp(POD_A.address, WORLD)).src == "198.18.0.99"


def test_a_switch_of_modes_keeps_the_devices_address(node: Node) -> None:
    node.leave_as(SECOND_IP)
    port = leave(node, tcp(POD_A.address, WORLD))[TCP].sport
    node.load(cfg_host_routing=n.LEGACY)
    wire = leave(node, tcp(POD_A.address, WORLD, flags="A"))
    assert (wire.src, wire[TCP].sport) == (SECOND_IP, port)


@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
def test_a_remote_backend_behind_the_second_device_sees_its_address(ebpf_proxy: Node, make: Any) -> None:
    """A client comes to a node port by the first device; the backend answers by the second."""
    ebpf_proxy.leave_as(SECOND_IP)
    protocol, layer = (TCP_PROTO, TCP) if make is tcp else (UDP_PROTO, UDP)
    ebpf_proxy.services.expose(s.ANY, NODE_PORT, protocol, [(OTHER_NODE, 8080)], flags=s.NODE_PORT)
    came = ebpf_proxy.from_netdev(outside() / make(WORLD, NODE_IP, 5555, NODE_PORT))
    onward = ebpf_proxy.to_netdev(outside() / came.packet[IP], SECOND, seen=n.SEEN_MASQUERADE)
    wire = checked(onward.packet)
    assert (wire.src, wire.dst) == (SECOND_IP, OTHER_NODE)
    more = ("SA",) if make is tcp else ()
    answer = make(OTHER_NODE, SECOND_IP, 8080, wire[layer].sport, *more)
    back = ebpf_proxy.from_netdev(outside() / answer, SECOND)
    assert back.forwards.pop("UNMASQUERADED") == 1
    told = checked(back.packet)
    assert (told.src, told[layer].sport, told.dst, told[layer].dport) == (NODE_IP, NODE_PORT, WORLD, 5555)


def test_services_do_not_keep_answers_from_the_pod(proxy: Node) -> None:
    proxy.leave_as(SECOND_IP)
    for make, layer, more in ((tcp, TCP, ("SA",)), (udp, UDP, ())):
        wire = leave(proxy, make(POD_A.address, WORLD, 40000, 80))
        assert wire.src == SECOND_IP
        come_back(proxy, make(WORLD, SECOND_IP, 80, wire[layer].sport, *more))
