"""Direct server return: the backend's node answers the client with the frontend's address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, IPOption, IPOption_NOP
from scapy.packet import Packet

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import EBPF, LEGACY, NODE_IP, OK, OTHER_NODE, POD_A, POD_B, REMOTE_POD, WORLD, Node
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, checked, ends, error, of, outside, tcp, udp
from tests.bpf.services import Services

NODE_PORT = 30080
EXTERNAL = "203.0.113.99"
DSR = 128
OPTION = bytes([0x9A, 8])


def option(address: str, port: int) -> IPOption:
    return IPOption(OPTION + port.to_bytes(2, "big") + n.number(address).to_bytes(4, "big"))


def carried(packet: Packet) -> bytes:
    """The IP options of a packet whose checksums are right."""
    ip = checked(packet)
    return bytes(ip)[20 : ip.ihl * 4]


@pytest.fixture(params=[EBPF, LEGACY], ids=["ebpf", "legacy"])
def dsr(request: pytest.FixtureRequest, devices: None, objects: Path) -> Iterator[Node]:
    """A node whose remote backends answer clients themselves, with a node port and an external IP."""
    with Node(objects, cfg_host_routing=request.param, cfg_services=1, cfg_dsr=1) as fresh:
        fresh.services = Services(fresh.maps)
        yield fresh


def expose(node: Node, backend: tuple[str, int]) -> None:
    for protocol in (TCP_PROTO, UDP_PROTO):
        node.services.expose(s.ANY, NODE_PORT, protocol, [backend], flags=s.NODE_PORT)
        node.services.expose(EXTERNAL, 80, protocol, [backend], flags=s.EXTERNAL_IP)


def test_a_syn_tells_the_backends_node_the_frontend(dsr: Node) -> None:
    expose(dsr, (REMOTE_POD, 8080))
    result = dsr.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
    assert ends(result.packet) == (WORLD, 40000, REMOTE_POD, 8080)
    assert carried(result.packet) == bytes(option(NODE_IP, NODE_PORT))
    assert dsr.to_netdev(result.packet, seen=n.SEEN_DIRECT).verdict == OK, "not masqueraded"
    entry = dsr.ct(WORLD, NODE_IP, TCP_PROTO, 40000, NODE_PORT)
    assert entry is not None and entry["flags"] & DSR


def test_later_segments_need_no_option(dsr: Node) -> None:
    expose(dsr, (REMOTE_POD, 8080))
    dsr.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
    for _ in range(2):
        result = dsr.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT, flags="A"))
        assert ends(result.packet) == (WORLD, 40000, REMOTE_POD, 8080)
        assert carried(result.packet) == b""
        dsr.bump(0)


def test_every_datagram_has_the_option(dsr: Node) -> None:
    expose(dsr, (OTHER_NODE, 8080))
    for data in (b"", b"odd", b"x" * 1464):
        result = dsr.from_netdev(outside() / udp(WORLD, EXTERNAL, dport=80, data=data))
        assert ends(result.packet) == (WORLD, 40000, OTHER_NODE, 8080)
        assert carried(result.packet) == bytes(option(EXTERNAL, 80))
    result = dsr.from_netdev(outside() / udp(WORLD, EXTERNAL, dport=80, data=b"x" * 1470))
    assert ends(result.packet) == (WORLD, 40000, OTHER_NODE, 8080)
    assert carried(result.packet) == b"", "too large with it; the node knows from earlier ones"


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(udp(WORLD, EXTERNAL, dport=80, data=b"x" * 1470), id="full-size"),
        pytest.param(udp(WORLD, EXTERNAL, dport=80, flags="MF"), id="fragment"),
        pytest.param(udp(WORLD, EXTERNAL, dport=80, options=[IPOption_NOP()] * 4), id="options"),
    ],
)
def test_flows_that_start_without_room_come_back_by_this_node(dsr: Node, packet: Packet) -> None:
    expose(dsr, (REMOTE_POD, 8080))
    dsr.from_netdev(outside() / packet)
    entry = dsr.ct(WORLD, EXTERNAL, UDP_PROTO, 40000, 80)
    assert entry is not None and entry["flags"] & n.MASQUERADED and not entry["flags"] & DSR


def test_a_backend_that_is_no_node_of_the_cluster_is_masqueraded(dsr: Node) -> None:
    expose(dsr, ("203.0.113.200", 8080))
    dsr.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
    entry = dsr.ct(WORLD, NODE_IP, TCP_PROTO, 40000, NODE_PORT)
    assert entry is not None and entry["flags"] & n.MASQUERADED and not entry["flags"] & DSR


def arriving(backend: str, frontend: tuple[str, int], make: object = tcp, **fields: object) -> Packet:
    packet = make(WORLD, backend, dport=8080, **fields)
    packet[IP].options = [option(*frontend)]
    return packet


@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
def test_a_pod_answers_with_the_frontends_address(dsr: Node, make: object) -> None:
    expose(dsr, (POD_B.address, 8080))
    for frontend in ((OTHER_NODE, NODE_PORT), (EXTERNAL, 80)):
        for _ in range(2):
            result = dsr.from_netdev(outside() / arriving(POD_B.address, frontend, make))
            assert ends(result.packet) == (WORLD, 40000, POD_B.address, 8080)
            assert carried(result.packet) == b"", "the pod sees nothing of it"
            fields = {"flags": "SA"} if make is tcp else {}
            answer = of(POD_B) / make(POD_B.address, WORLD, 8080, 40000, **fields)
            result = dsr.from_pod(answer, POD_B)
            if result.forwards == {"STACK": 1}:
                result = dsr.to_netdev(result.packet, seen=s.SEEN_TRANSLATE)
            else:
                assert result.forwards == {"NEIGH": 1}
            assert ends(result.packet) == (*frontend, WORLD, 40000)


def test_later_segments_reach_the_pod(dsr: Node) -> None:
    expose(dsr, (POD_B.address, 8080))
    dsr.from_netdev(outside() / arriving(POD_B.address, (OTHER_NODE, NODE_PORT)))
    for slot in (0, POD_B.slot):
        result = dsr.from_netdev(outside() / tcp(WORLD, POD_B.address, dport=8080, flags="A"))
        assert ends(result.packet) == (WORLD, 40000, POD_B.address, 8080)
        dsr.bump(slot)
        result = dsr.from_pod(of(POD_B) / tcp(POD_B.address, WORLD, 8080, 40000, "A"), POD_B)
        if result.forwards == {"STACK": 1}:
            result = dsr.to_netdev(result.packet, seen=s.SEEN_TRANSLATE)
        assert ends(result.packet) == (OTHER_NODE, NODE_PORT, WORLD, 40000)


def test_the_host_answers_with_the_frontends_address(dsr: Node) -> None:
    expose(dsr, (NODE_IP, 8080))
    result = dsr.from_netdev(outside() / arriving(NODE_IP, (OTHER_NODE, NODE_PORT)))
    assert (result.verdict, carried(result.packet)) == (OK, b"")
    result = dsr.to_netdev(outside() / tcp(NODE_IP, WORLD, 8080, 40000, "SA"))
    assert ends(result.packet) == (OTHER_NODE, NODE_PORT, WORLD, 40000)


@pytest.mark.parametrize(
    "frontend", [(EXTERNAL, 81), ("203.0.113.66", 80), (n.VIP, 80)], ids=["port", "address", "cluster-ip"]
)
def test_an_option_that_names_no_frontend_outside_is_not_believed(
    dsr: Node, frontend: tuple[str, int]
) -> None:
    """Anybody can send one: answers must not leave with an address that the sender chose."""
    expose(dsr, (POD_B.address, 8080))
    dsr.services.expose(n.VIP, 80, TCP_PROTO, [(POD_B.address, 8080)])
    packet = arriving(POD_B.address, frontend)
    result = dsr.from_netdev(outside() / packet)
    assert carried(result.packet) == bytes(option(*frontend))
    result = dsr.from_pod(of(POD_B) / tcp(POD_B.address, WORLD, 8080, 40000, "SA"), POD_B)
    assert ends(result.packet) == (POD_B.address, 8080, WORLD, 40000)


def test_a_direct_connection_to_the_backend_is_left_alone(dsr: Node) -> None:
    expose(dsr, (POD_B.address, 8080))
    dsr.from_netdev(outside() / arriving(POD_B.address, (OTHER_NODE, NODE_PORT)))
    dsr.from_netdev(outside() / tcp(WORLD, POD_B.address, dport=8080))
    result = dsr.from_pod(of(POD_B) / tcp(POD_B.address, WORLD, 8080, 40000, "SA"), POD_B)
    assert ends(result.packet) == (POD_B.address, 8080, WORLD, 40000)


def test_a_clients_error_goes_to_the_backend_itself(dsr: Node) -> None:
    expose(dsr, (REMOTE_POD, 8080))
    dsr.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
    about = tcp(NODE_IP, WORLD, NODE_PORT, 40000, "A")
    result = dsr.from_netdev(outside() / error(WORLD, NODE_IP, about))
    ip = checked(result.packet)
    assert (ip.src, ip.dst, ip["IPerror"].src, ip["TCPerror"].sport) == (WORLD, REMOTE_POD, REMOTE_POD, 8080)
    assert dsr.to_netdev(result.packet, seen=n.SEEN_DIRECT).verdict == OK


def test_a_backends_error_comes_from_the_frontend(dsr: Node) -> None:
    expose(dsr, (POD_B.address, 8080))
    dsr.from_netdev(outside() / arriving(POD_B.address, (OTHER_NODE, NODE_PORT), udp))
    about = udp(WORLD, POD_B.address, dport=8080)
    result = dsr.from_pod(of(POD_B) / error(POD_B.address, WORLD, about, code=3), POD_B)
    if result.forwards == {"STACK": 1}:
        result = dsr.to_netdev(result.packet, seen=s.SEEN_TRANSLATE)
    ip = checked(result.packet)
    assert (ip.src, ip.dst, ip["IPerror"].dst, ip["UDPerror"].dport) == (
        OTHER_NODE,
        WORLD,
        OTHER_NODE,
        NODE_PORT,
    )


def test_a_client_whose_port_had_to_change_is_answered_by_this_node(dsr: Node) -> None:
    expose(dsr, (REMOTE_POD, 8080))
    dsr.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
    result = dsr.from_netdev(outside() / tcp(WORLD, EXTERNAL, dport=80))
    assert ends(result.packet)[1] != 40000 and carried(result.packet) == b""
    entry = dsr.ct(WORLD, EXTERNAL, TCP_PROTO, 40000, 80)
    assert entry is not None and entry["flags"] & n.MASQUERADED


def test_pods_of_the_node_are_translated_as_ever(dsr: Node) -> None:
    expose(dsr, (REMOTE_POD, 8080))
    result = dsr.from_pod(of(POD_A) / tcp(POD_A.address, NODE_IP, dport=NODE_PORT))
    assert ends(result.packet)[2:] == (REMOTE_POD, 8080) and carried(result.packet) == b""
