"""How long a connection to a service keeps its backend."""

from __future__ import annotations

import pytest

from tests.bpf import services as s
from tests.bpf.node import POD_A, POD_B, VIP, Node
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, ends, of, tcp, udp
from tests.bpf.services import backend_of, earlier


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
