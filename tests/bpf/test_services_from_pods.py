"""Services as pods reach them: each client's packets and the answers to it."""

from __future__ import annotations

import pytest

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, OK, OTHER_NODE, POD_A, POD_B, REMOTE_POD, SHOT, VIP, WORLD, Node
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, ends, of, outside, tcp, udp
from tests.bpf.services import backend_of

NODE_PORT = 30080
EXTERNAL = "203.0.113.99"


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
