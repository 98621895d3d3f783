"""Policies and services: the backend is judged, never the service's address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, IPOption
from scapy.packet import Packet

from tests.bpf import policies as p
from tests.bpf import services as s
from tests.bpf.node import (
    EBPF,
    LEGACY,
    NODE_IP,
    OK,
    OTHER_NODE,
    POD_A,
    POD_B,
    REMOTE_POD,
    VIP,
    WORLD,
    Node,
    Pod,
    Result,
    number,
    tuple4,
)
from tests.bpf.packets import TCP_PROTO, UDP_PROTO, ends, error, of, outside, tcp, udp
from tests.bpf.policies import A_ID, B_ID, DENIED, EGRESS, INGRESS, NOTHING_MATCHED, allow, deny
from tests.bpf.services import Services

REMOTE_ID = 2002
NODE_PORT = 30080
A, B = POD_A.address, POD_B.address


def identify(node: Node) -> Node:
    node.add(POD_A, identity=A_ID)
    node.add(POD_B, identity=B_ID)
    node.know(f"{REMOTE_POD}/32", 1, OTHER_NODE, REMOTE_ID)
    return node


@pytest.fixture
def translating(proxy: Node) -> Node:
    """A node whose programs translate services."""
    return identify(proxy)


@pytest.fixture
def netfilters(either: Node) -> Node:
    """A node whose services are kube-proxy's."""
    return identify(either)


@pytest.fixture(params=[EBPF, LEGACY], ids=["ebpf", "legacy"])
def dsr(request: pytest.FixtureRequest, devices: None, objects: Path) -> Iterator[Node]:
    with Node(objects, cfg_host_routing=request.param, cfg_services=1, cfg_dsr=1) as fresh:
        fresh.services = Services(fresh.maps)
        yield identify(fresh)


def sent(node: Node, packet: Packet) -> Result:
    return node.from_pod(of(POD_A) / packet)


# -- translated by the datapath ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "identity"), [(B, B_ID), (REMOTE_POD, REMOTE_ID), (NODE_IP, 1), (WORLD, 2)]
)
@pytest.mark.parametrize("make", [tcp, udp], ids=["tcp", "udp"])
def test_a_pods_egress_is_judged_by_the_backend(
    translating: Node, backend: str, identity: int, make: object
) -> None:
    protocol = TCP_PROTO if make is tcp else UDP_PROTO
    translating.services.expose(VIP, 80, protocol, [(backend, 8080)])
    for entry in (allow(EGRESS, identity, protocol, 80), allow(EGRESS, 2, protocol, 80)):
        p.enforce(translating, POD_A, entry, identity=A_ID)
        result = sent(translating, make(A, VIP, dport=80))
        assert result.reason == NOTHING_MATCHED and not p.flows(translating)
        for event in (*result.events, *result.verdicts):
            assert (event["destination_identity"], event["destination_port"]) == (identity, 8080)
        assert result.verdicts[0]["destination_address"] == number(backend)
        assert result.events[0]["destination_address"][:4] == number(backend).to_bytes(4, "big")
    p.enforce(translating, POD_A, allow(EGRESS, identity, protocol, 8080), identity=A_ID)
    result = sent(translating, make(A, VIP, dport=80))
    assert (result.reason, ends(result.packet)) == (None, (A, 40000, backend, 8080))


def test_the_backends_ingress_is_judged_by_its_port_and_the_client(translating: Node) -> None:
    translating.services.expose(VIP, 80, TCP_PROTO, [(B, 8080)])
    p.enforce(translating, POD_B, allow(INGRESS, A_ID, TCP_PROTO, 80), identity=B_ID)
    result = sent(translating, tcp(A, VIP))
    assert (result.reason, list(result.drops)) == (NOTHING_MATCHED, [(NOTHING_MATCHED, 1)])
    assert not p.flows(translating)
    p.enforce(translating, POD_B, allow(INGRESS, A_ID, TCP_PROTO, 8080), identity=B_ID)
    assert sent(translating, tcp(A, VIP)).reason is None


def test_a_services_connection_answers_and_ends_like_any_other(translating: Node) -> None:
    translating.services.expose(VIP, 80, TCP_PROTO, [(B, 8080)])
    p.enforce(translating, POD_A, allow(EGRESS, B_ID), identity=A_ID)
    p.enforce(translating, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    assert sent(translating, tcp(A, VIP)).reason is None
    for pod in (POD_A, POD_B):
        answer = translating.from_pod(of(POD_B) / tcp(B, A, 8080, 40000, "SA"), POD_B)
        assert (answer.reason, answer.verdicts) == (None, [])
        assert sent(translating, tcp(A, VIP, flags="A")).verdicts == []
        translating.bump(pod.slot)
    p.enforce(translating, POD_B, deny(INGRESS, A_ID), identity=B_ID)
    before = p.flows(translating)
    assert sent(translating, tcp(A, VIP, flags="A")).reason == DENIED
    assert p.flows(translating) == before
    assert translating.from_pod(of(POD_B) / tcp(B, A, 8080, 40000, "A"), POD_B).reason is None
    result = translating.from_pod(of(POD_B) / tcp(B, A, 8080, 40000, "S"), POD_B)
    assert result.reason == NOTHING_MATCHED, "a SYN answers nothing"


def test_a_forgotten_services_connection_is_judged_anew(translating: Node) -> None:
    """The answer brings the asking side's entry back, but no permission."""
    translating.services.expose(VIP, 80, TCP_PROTO, [(B, 8080)])
    p.enforce(translating, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    sent(translating, tcp(A, VIP))
    translating.maps["podwire_ct4"].delete(tuple4(A, VIP, TCP_PROTO, 40000, 80))
    p.enforce(translating, POD_B, identity=B_ID)
    assert translating.from_pod(of(POD_B) / tcp(B, A, 8080, 40000, "SA"), POD_B).reason is None
    assert sent(translating, tcp(A, VIP, flags="A")).reason == NOTHING_MATCHED


def test_a_pod_reaches_itself_by_a_service(translating: Node) -> None:
    translating.services.expose(VIP, 80, TCP_PROTO, [(A, 8080)])
    translating.add(POD_A, identity=A_ID, policy=p.CLOSED)
    for flags, back in (("S", "SA"), ("A", "A")):
        result = sent(translating, tcp(A, VIP, flags=flags))
        assert (result.reason, ends(result.packet)) == (None, (s.HAIRPIN, 40000, A, 8080))
        result = sent(translating, tcp(A, s.HAIRPIN, 8080, 40000, back))
        assert (result.reason, ends(result.packet)) == (None, (VIP, 80, A, 40000))


def test_a_node_ports_client_is_judged_as_what_it_is(translating: Node) -> None:
    translating.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(B, 8080)], flags=s.NODE_PORT)
    for entries in ([], [allow(INGRESS, p.WORLD_ID, TCP_PROTO, NODE_PORT)], [allow(INGRESS, p.HOST_ID)]):
        p.enforce(translating, POD_B, *entries, identity=B_ID)
        result = translating.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
        assert result.reason == NOTHING_MATCHED and not p.flows(translating)
        (event,) = result.events
        assert (event["source_identity"], event["destination_port"]) == (p.WORLD_ID, 8080)
    p.enforce(translating, POD_B, allow(INGRESS, p.WORLD_ID, TCP_PROTO, 8080), identity=B_ID)
    for flags in ("S", "A"):
        result = translating.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT, flags=flags))
        assert (result.reason, ends(result.packet)) == (None, (WORLD, 40000, B, 8080))
    answer = translating.from_pod(of(POD_B) / tcp(B, WORLD, 8080, 40000, "SA"), POD_B)
    assert (answer.reason, answer.verdicts) == (None, []), "egress is closed, but this is an answer"
    p.enforce(translating, POD_B, identity=B_ID)
    result = translating.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT, flags="A"))
    assert result.reason == NOTHING_MATCHED


def test_a_node_ports_remote_backend_is_its_nodes_business(translating: Node) -> None:
    for pod, identity in ((POD_A, A_ID), (POD_B, B_ID)):
        translating.add(pod, identity=identity, policy=p.CLOSED)
    translating.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(REMOTE_POD, 8080)], flags=s.NODE_PORT)
    result = translating.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT))
    assert (result.reason, result.verdicts) == (None, [])


def test_direct_server_return_shows_the_client(dsr: Node) -> None:
    dsr.services.expose(s.ANY, NODE_PORT, TCP_PROTO, [(B, 8080)], flags=s.NODE_PORT)
    frontend = bytes([0x9A, 8]) + NODE_PORT.to_bytes(2, "big") + number(OTHER_NODE).to_bytes(4, "big")
    dsr.know(f"{OTHER_NODE}/32", 4, identity=6)
    packet = tcp(WORLD, B, 40000, 8080, options=[IPOption(frontend)])
    p.enforce(dsr, POD_B, allow(INGRESS, 6), identity=B_ID)
    result = dsr.from_netdev(outside() / packet)
    assert result.reason == NOTHING_MATCHED and not p.flows(dsr)
    p.enforce(dsr, POD_B, allow(INGRESS, p.WORLD_ID), identity=B_ID)
    assert dsr.from_netdev(outside() / packet).reason is None
    answer = dsr.from_pod(of(POD_B) / tcp(B, WORLD, 8080, 40000, "SA"), POD_B)
    assert answer.reason is None and answer.verdicts == []
    p.enforce(dsr, POD_B, identity=B_ID)
    assert dsr.from_netdev(outside() / tcp(WORLD, B, 40000, 8080, "A")).reason == NOTHING_MATCHED


def test_errors_about_a_services_connection_pass(translating: Node) -> None:
    translating.services.expose(VIP, 80, UDP_PROTO, [(B, 8080)])
    p.enforce(translating, POD_A, allow(EGRESS, B_ID), identity=A_ID)
    p.enforce(translating, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    sent(translating, udp(A, VIP, dport=80))
    translating.from_pod(of(POD_B) / udp(B, A, 8080, 40000), POD_B)
    about_request = error(B, A, udp(A, B, 40000, 8080), code=3)
    assert translating.from_pod(of(POD_B) / about_request, POD_B).reason is None
    about_answer = error(A, VIP, udp(VIP, A, 80, 40000), code=3)
    result = sent(translating, about_answer)
    assert (result.reason, result.packet[IP].dst) == (None, B)


def test_nobody_complains_about_anothers_connection(translating: Node) -> None:
    """B knows that A talks to a service, and would end that; it may send nothing."""
    translating.services.expose(VIP, 80, UDP_PROTO, [(REMOTE_POD, 8080)])
    p.enforce(translating, POD_B, identity=B_ID)
    sent(translating, udp(A, VIP, dport=80))
    for invented in (
        error(B, VIP, udp(VIP, A, 80, 40000), code=3),
        error(B, A, udp(A, VIP, 40000, 80), code=3),
        error(B, REMOTE_POD, udp(REMOTE_POD, A, 8080, 40000), code=3),
    ):
        assert translating.from_pod(of(POD_B) / invented, POD_B).reason == NOTHING_MATCHED


def test_a_service_without_backends_is_refused_as_ever(translating: Node) -> None:
    translating.add(POD_A, identity=A_ID, policy=p.CLOSED)
    translating.services.expose(VIP, 80, TCP_PROTO, [])
    assert sent(translating, tcp(A, VIP)).forwards == {"REJECTED": 1}


# -- translated by netfilter ---------------------------------------------------------------------------


def test_what_netfilter_will_translate_is_judged_where_it_comes_out(netfilters: Node) -> None:
    """kube-proxy sends A's packets for the service to B: A's egress and B's ingress are judged at B."""
    p.enforce(netfilters, POD_A, allow(EGRESS, B_ID, TCP_PROTO, 8080), identity=A_ID)
    p.enforce(netfilters, POD_B, allow(INGRESS, A_ID, TCP_PROTO, 8080), identity=B_ID)
    assert sent(netfilters, tcp(A, VIP)).forwards == {"STACK_TRANSLATED": 1}
    result = netfilters.to_pod(outside() / tcp(A, B, 40000, 8080), POD_B)
    assert (result.reason, [v["direction"] for v in result.verdicts]) == (None, [2, 1])
    assert netfilters.from_pod(of(POD_B) / tcp(B, A, 8080, 40000, "SA"), POD_B).reason is None
    assert netfilters.to_pod(outside() / tcp(VIP, A, 80, 40000, "SA")).reason is None

    p.enforce(netfilters, POD_A, identity=A_ID)
    assert sent(netfilters, tcp(A, VIP, flags="A")).reason is None
    before = p.flows(netfilters)
    result = netfilters.to_pod(outside() / tcp(A, B, 40000, 8080, "A"), POD_B)
    assert (result.reason, list(result.drops)) == (NOTHING_MATCHED, [(NOTHING_MATCHED, 2)])
    assert p.flows(netfilters) == before
    p.enforce(netfilters, POD_A, allow(EGRESS), identity=A_ID)
    p.enforce(netfilters, POD_B, identity=B_ID)
    result = netfilters.to_pod(outside() / tcp(A, B, 40000, 8080, "A"), POD_B)
    assert (result.reason, list(result.drops)) == (NOTHING_MATCHED, [(NOTHING_MATCHED, 1)])


def test_a_remote_backend_of_netfilters_is_judged_where_it_leaves(netfilters: Node) -> None:
    p.enforce(netfilters, POD_A, allow(EGRESS, REMOTE_ID, TCP_PROTO, 8080), identity=A_ID)
    assert sent(netfilters, tcp(A, VIP)).reason is None
    result = netfilters.to_netdev(outside() / tcp(A, REMOTE_POD, 40000, 8080))
    assert (result.verdict, len(result.verdicts)) == (OK, 1)
    assert netfilters.from_netdev(outside() / tcp(REMOTE_POD, A, 8080, 40000, "SA")).reason is None
    result = netfilters.to_netdev(outside() / tcp(A, REMOTE_POD, 40000, 8080, "A"))
    assert (result.verdict, result.verdicts) == (OK, []), "told once"
    p.enforce(netfilters, POD_A, allow(EGRESS, REMOTE_ID, TCP_PROTO, 80), identity=A_ID)
    before = p.flows(netfilters)
    for flags in ("S", "A"):
        result = netfilters.to_netdev(outside() / tcp(A, REMOTE_POD, 40000, 8080, flags))
        assert result.reason == NOTHING_MATCHED
        assert p.flows(netfilters) == before


def test_an_untranslated_services_address_is_the_world(netfilters: Node) -> None:
    """No such service: the packet leaves as it came, and is judged there."""
    p.enforce(netfilters, POD_A, allow(EGRESS, REMOTE_ID), identity=A_ID)
    assert sent(netfilters, tcp(A, VIP)).reason is None
    result = netfilters.to_netdev(outside() / tcp(A, VIP))
    assert (result.reason, result.events[0]["destination_identity"]) == (NOTHING_MATCHED, p.WORLD_ID)


def test_netfilters_node_port_shows_the_client_to_the_pod(netfilters: Node) -> None:
    """externalTrafficPolicy: Local keeps the client's address."""
    p.enforce(netfilters, POD_B, allow(INGRESS, p.WORLD_ID, TCP_PROTO, 8080), identity=B_ID)
    assert netfilters.from_netdev(outside() / tcp(WORLD, NODE_IP, dport=NODE_PORT)).verdict == OK
    for flags in ("S", "A"):
        assert netfilters.to_pod(outside() / tcp(WORLD, B, 40000, 8080, flags), POD_B).reason is None
    assert netfilters.from_pod(of(POD_B) / tcp(B, WORLD, 8080, 40000, "SA"), POD_B).reason is None
    p.enforce(netfilters, POD_B, identity=B_ID)
    assert netfilters.to_pod(outside() / tcp(WORLD, B, 40000, 8080, "A"), POD_B).reason == NOTHING_MATCHED


def test_what_a_pod_sends_to_its_node_is_the_host(netfilters: Node) -> None:
    """Node ports too, because only the stack knows whether it will translate."""
    p.enforce(netfilters, POD_A, allow(EGRESS, B_ID), identity=A_ID)
    assert sent(netfilters, tcp(A, NODE_IP, dport=NODE_PORT)).reason == NOTHING_MATCHED


def test_errors_that_netfilter_translates_are_judged_where_they_come_out(netfilters: Node) -> None:
    p.enforce(netfilters, POD_B, allow(INGRESS, A_ID, UDP_PROTO, 8080), identity=B_ID)
    netfilters.to_pod(outside() / udp(A, B, 40000, 8080), POD_B)
    answer = udp(B, A, 8080, 40000)
    netfilters.from_pod(of(POD_B) / answer, POD_B)
    assert netfilters.to_pod(outside() / error(A, B, answer, code=3), POD_B).reason is None
    invented = error(A, B, udp(B, A, 8080, 40001), code=3)
    assert netfilters.to_pod(outside() / invented, POD_B).reason == NOTHING_MATCHED
    p.enforce(netfilters, POD_A, identity=A_ID)
    invented = error(A, REMOTE_POD, udp(REMOTE_POD, A, 8080, 40001), code=3)
    assert netfilters.to_netdev(outside() / invented).reason == NOTHING_MATCHED


@pytest.mark.parametrize("gone", ["client", "backend"])
def test_a_services_answers_end_with_either_end(translating: Node, gone: str) -> None:
    translating.services.expose(VIP, 80, UDP_PROTO, [(B, 8080)])
    p.enforce(translating, POD_A, allow(EGRESS, B_ID), identity=A_ID)
    sent(translating, udp(A, VIP, dport=80))
    if gone == "client":
        p.enforce(translating, Pod(A, POD_A.mac, POD_A.device, 7), identity=A_ID + 1)
    else:
        translating.add(Pod(B, POD_B.mac, POD_B.device, 8), identity=B_ID + 1)
    translating.bump(POD_A.slot)
    translating.bump(POD_B.slot)
    answer = translating.from_pod(of(POD_B) / udp(B, A, 8080, 40000), POD_B)
    assert answer.reason == NOTHING_MATCHED
