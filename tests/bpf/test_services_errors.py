"""ICMP errors about connections to services, and fragments of their datagrams."""

from __future__ import annotations

from scapy.layers.inet import IP, UDP, IPerror, TCPerror, UDPerror, fragment

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, OK, POD_A, POD_B, REMOTE_POD, VIP, WORLD, Node
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, checked, ends, error, of, outside, tcp, udp

NODE_PORT = 30080


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


def test_the_hosts_own_errors_pass_whatever_they_quote(proxy: Node) -> None:
    for about in (tcp(WORLD, NODE_IP), udp(WORLD, NODE_IP, data=b"")):
        for quote in (8, 20, 24, 60):
            packet = outside() / error(NODE_IP, WORLD, about, quote=quote)
            result = proxy.to_netdev(packet)
            assert (result.verdict, bytes(result.packet)) == (OK, bytes(packet))
