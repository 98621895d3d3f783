"""Services as clients outside of the cluster reach them, and what the node's own traffic keeps."""

from __future__ import annotations

import pytest

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, OK, POD_A, POD_B, REMOTE_POD, WORLD, Node
from tests.bpf.packets import TCP_PROTO, ends, error, of, outside, ping, tcp, udp

NODE_PORT = 30080


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
