"""SCTP to services: its checksum is over the whole packet."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, fragment
from scapy.packet import Packet, Raw

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, POD_A, POD_B, REMOTE_POD, VIP, WORLD, Node
from tests.bpf.packets import SCTP_PROTO, checked, of, outside, sctp

NODE_PORT = 30080
NAT_UNSUPPORTED = 168


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
