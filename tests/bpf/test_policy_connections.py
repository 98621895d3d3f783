"""Connections under policies: what follows a verdict, what changes it, and what is no answer."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, fragment
from scapy.packet import Packet, Raw

from tests.bpf import policies as p
from tests.bpf.node import (
    EBPF,
    LEGACY,
    NODE_IP,
    OK,
    OTHER_NODE,
    POD_A,
    POD_B,
    REMOTE_POD,
    SEEN_DIRECT,
    SEEN_MASQUERADE,
    WORLD,
    Node,
    Pod,
    Result,
    tuple4,
)
from tests.bpf.packets import ICMP_PROTO, TCP_PROTO, UDP_PROTO, error, of, outside, ping, tcp, udp
from tests.bpf.policies import A_ID, B_ID, DENIED, EGRESS, INGRESS, NOTHING_MATCHED, allow, deny

REMOTE_ID = 2002
A, B = POD_A.address, POD_B.address
SYN, SYN_ACK, ACK = "S", "SA", "A"


@pytest.fixture
def cluster(either: Node) -> Node:
    either.add(POD_A, identity=A_ID)
    either.add(POD_B, identity=B_ID)
    either.know(f"{REMOTE_POD}/32", 1, OTHER_NODE, REMOTE_ID)
    return either


def a_to_b(node: Node, packet: Packet) -> Result:
    return node.from_pod(of(POD_A) / packet, POD_A)


def b_to_a(node: Node, packet: Packet) -> Result:
    return node.from_pod(of(POD_B) / packet, POD_B)


def request(flags: str = SYN) -> Packet:
    return tcp(A, B, 40000, 80, flags)


def answer(flags: str = SYN_ACK) -> Packet:
    return tcp(B, A, 80, 40000, flags)


def handshake(node: Node) -> None:
    for send, packet in ((a_to_b, request()), (b_to_a, answer()), (a_to_b, request(ACK))):
        assert send(node, packet).reason is None


def close(node: Node, pod: Any, *, identity: int) -> None:
    p.enforce(node, pod, identity=identity)


def refuses(node: Node, send: Any, packet: Packet, reason: int = NOTHING_MATCHED) -> None:
    before = p.flows(node)
    assert send(node, packet).reason == reason
    assert p.flows(node) == before


# -- answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("closed", "identity"), [(POD_A, A_ID), (POD_B, B_ID)])
def test_answers_need_no_permission(cluster: Node, closed: Any, identity: int) -> None:
    """Neither egress at the one that answers nor ingress at the one that asked."""
    opened = allow(EGRESS, B_ID) if closed is POD_A else allow(INGRESS, A_ID)
    p.enforce(cluster, closed, opened, identity=identity)
    handshake(cluster)
    for _ in range(2):
        result = b_to_a(cluster, answer(ACK))
        assert (result.reason, result.verdicts) == (None, [])
        cluster.bump(closed.slot)  # judged by the slow path, too
    refuses(cluster, b_to_a, tcp(B, A, 40000, 80))


def test_answers_from_another_node_need_no_permission(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, REMOTE_ID), identity=A_ID)
    for packet, reply in (
        (tcp(A, REMOTE_POD), tcp(REMOTE_POD, A, 80, 40000, SYN_ACK)),
        (udp(A, REMOTE_POD), udp(REMOTE_POD, A, 53, 40000)),
        (ping(A, REMOTE_POD), ping(REMOTE_POD, A, reply=True)),
    ):
        assert cluster.from_netdev(outside() / reply).reason == NOTHING_MATCHED, "nobody asked"
        assert cluster.from_pod(of(POD_A) / packet).reason is None
        for _ in range(2):
            result = cluster.from_netdev(outside() / reply)
            assert (result.reason, result.verdicts) == (None, [])
            cluster.bump(POD_A.slot)
            cluster.bump(0)


def test_answers_of_the_world_come_back_to_the_pod(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, p.WORLD_ID), identity=A_ID)
    for packet, reply in (
        (tcp(A, WORLD, 61000), tcp(WORLD, NODE_IP, 80, 61000, SYN_ACK)),
        (udp(A, WORLD, 61000), udp(WORLD, NODE_IP, 53, 61000)),
    ):
        assert cluster.from_pod(of(POD_A) / packet).reason is None
        cluster.to_netdev(outside() / packet, seen=SEEN_MASQUERADE)
        assert cluster.from_netdev(outside() / reply).reason is None
        cluster.maps["podwire_ct4"].clear()
        assert cluster.from_netdev(outside() / reply).reason is None, "the table of addresses knows it, too"
        result = cluster.from_pod(of(POD_A) / packet)
        assert (result.reason, len(result.verdicts)) == (None, 1), "but it vouches for no packet of the pod"


def test_a_syn_by_a_masqueraded_connections_way_opens_one(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, p.WORLD_ID), identity=A_ID)
    cluster.from_pod(of(POD_A) / tcp(A, WORLD, 61000))
    cluster.to_netdev(outside() / tcp(A, WORLD, 61000), seen=SEEN_MASQUERADE)
    result = cluster.from_netdev(outside() / tcp(WORLD, NODE_IP, 80, 61000, SYN))
    assert result.reason == NOTHING_MATCHED


@pytest.mark.parametrize("slot", [0, POD_A.slot])
def test_a_connection_to_the_world_follows_its_policy(cluster: Node, slot: int) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, p.WORLD_ID), identity=A_ID)
    assert cluster.from_pod(of(POD_A) / tcp(A, WORLD)).reason is None
    cluster.bump(slot)
    result = cluster.from_pod(of(POD_A) / tcp(A, WORLD, flags=ACK))
    assert (result.reason, result.verdicts) == (None, []), "told once"
    p.enforce(cluster, POD_A, identity=A_ID)
    refuses(cluster, a_to_b, tcp(A, WORLD, flags=ACK))


# -- what changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "reason"),
    [([], NOTHING_MATCHED), ([deny(INGRESS, A_ID)], DENIED), ([allow(INGRESS, 7)], 133)],
)
def test_a_connection_ends_with_its_permission(cluster: Node, entries: list[Any], reason: int) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, TCP_PROTO, 80), identity=B_ID)
    handshake(cluster)
    p.enforce(cluster, POD_B, *entries, identity=B_ID)
    refuses(cluster, a_to_b, request(ACK), reason)
    assert b_to_a(cluster, answer(ACK)).reason is None, "what was asked before may be answered"
    refuses(cluster, a_to_b, request(ACK), reason)
    refuses(cluster, a_to_b, request("FA"), reason)
    refuses(cluster, a_to_b, request(SYN), reason)
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, TCP_PROTO, 80), identity=B_ID)
    assert a_to_b(cluster, request(ACK)).reason is None, "allowed again, it goes on"


def test_a_connection_ends_when_an_identity_changes(cluster: Node) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    handshake(cluster)
    cluster.add(POD_A, identity=A_ID + 1)
    refuses(cluster, a_to_b, request(ACK))


def test_a_connection_from_elsewhere_ends_with_its_permission_and_with_its_identity(cluster: Node) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, REMOTE_ID), identity=B_ID)

    def send(node: Node, packet: Packet) -> Result:
        return node.from_netdev(outside() / packet)

    assert send(cluster, tcp(REMOTE_POD, B)).reason is None
    cluster.know(f"{REMOTE_POD}/32", 1, OTHER_NODE, REMOTE_ID + 1)
    refuses(cluster, send, tcp(REMOTE_POD, B, flags=ACK))
    cluster.know(f"{REMOTE_POD}/32", 1, OTHER_NODE, REMOTE_ID)
    assert send(cluster, tcp(REMOTE_POD, B, flags=ACK)).reason is None
    p.enforce(cluster, POD_B, identity=B_ID)
    refuses(cluster, send, tcp(REMOTE_POD, B, flags=ACK))


def test_connections_from_before_the_policy_are_judged_by_it(cluster: Node) -> None:
    handshake(cluster)
    p.enforce(cluster, POD_B, identity=B_ID)
    refuses(cluster, a_to_b, request(ACK))


def test_a_switch_of_mode_keeps_verdicts(cluster: Node) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    handshake(cluster)
    for mode in (LEGACY, EBPF, LEGACY):
        cluster.load(cfg_host_routing=mode)
        assert a_to_b(cluster, request(ACK)).reason is None
        assert b_to_a(cluster, answer(ACK)).reason is None
    p.enforce(cluster, POD_B, identity=B_ID)
    for mode in (EBPF, LEGACY):
        cluster.load(cfg_host_routing=mode)
        refuses(cluster, a_to_b, request(ACK))


@pytest.mark.parametrize("flags", [ACK, "PA"])
def test_what_the_stack_delivers_is_judged_again_after_a_change(cluster: Node, flags: str) -> None:
    """to_pod's short way asks the revisions, too."""
    p.enforce(cluster, POD_B, allow(INGRESS, p.HOST_ID), identity=B_ID)

    def send(node: Node, packet: Packet) -> Result:
        return node.to_pod(outside() / packet, POD_B)

    assert send(cluster, tcp(NODE_IP, B)).reason is None
    assert b_to_a(cluster, tcp(B, NODE_IP, 80, 40000, SYN_ACK)).reason is None
    assert send(cluster, tcp(NODE_IP, B, flags=flags)).reason is None
    p.enforce(cluster, POD_B, deny(INGRESS, p.HOST_ID), identity=B_ID)
    refuses(cluster, send, tcp(NODE_IP, B, flags=flags), DENIED)
    assert b_to_a(cluster, tcp(B, NODE_IP, 80, 40000, ACK)).reason is None


def test_the_hosts_answers_reach_a_closed_pod(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, p.HOST_ID), identity=A_ID)
    assert cluster.from_pod(of(POD_A) / tcp(A, NODE_IP)).reason is None
    for _ in range(2):
        assert cluster.to_pod(outside() / tcp(NODE_IP, A, 80, 40000, SYN_ACK)).reason is None
        cluster.bump(POD_A.slot)
    assert cluster.to_pod(outside() / tcp(NODE_IP, A, 80, 40000)).reason == NOTHING_MATCHED


def test_a_packet_that_a_program_has_judged_passes_out_of_the_stack(legacy: Node) -> None:
    legacy.add(POD_A, identity=A_ID)
    p.enforce(legacy, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    assert a_to_b(legacy, request()).forwards == {"STACK": 1}
    result = legacy.to_pod(outside() / request(), POD_B, seen=SEEN_DIRECT)
    assert (result.verdict, result.verdicts) == (OK, [])


# -- what is no answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["SA", "A", "PA", "FA", "F", "R", "RA", "", "SF", "SR", "SPU"])
@pytest.mark.parametrize("times", [1, 3])
def test_no_tcp_flags_pass_for_an_answer(cluster: Node, flags: str, times: int) -> None:
    p.enforce(cluster, POD_B, identity=B_ID)
    for _ in range(times):
        refuses(cluster, a_to_b, tcp(A, B, 80, 40000, flags))
    assert not p.flows(cluster)


@pytest.mark.parametrize(
    "packet",
    [udp(A, B, 53, 40000), ping(A, B, reply=True), ping(A, B), tcp(A, B, 80, 40000, "SA")],
    ids=["udp", "echo-reply", "echo", "syn-ack"],
)
def test_a_refused_packet_opens_no_way_back(cluster: Node, packet: Packet) -> None:
    """B may talk to nobody and hear nobody; A's packets must not make B's next ones answers, nor its own."""
    p.enforce(cluster, POD_B, identity=B_ID)
    refuses(cluster, a_to_b, packet)
    back = IP(bytes(packet))
    back.src, back.dst = B, A
    if back.haslayer(TCP):
        back[TCP].sport, back[TCP].dport = 40000, 80
    refuses(cluster, b_to_a, back)
    refuses(cluster, a_to_b, packet)


def test_a_denied_sender_does_not_become_the_answering_side(cluster: Node) -> None:
    """A may not send to B. B speaks to A, and A answers that; A's own connection stays refused."""
    p.enforce(cluster, POD_A, deny(EGRESS, B_ID), allow(INGRESS, B_ID), identity=A_ID)
    refuses(cluster, a_to_b, udp(A, B, 40000, 53), DENIED)
    assert b_to_a(cluster, udp(B, A, 53, 40000)).reason is None
    assert a_to_b(cluster, udp(A, B, 40000, 53)).reason is None, "now it is an answer"
    refuses(cluster, a_to_b, udp(A, B, 40001, 53), DENIED)
    refuses(cluster, a_to_b, tcp(A, B, 40000, 53), DENIED)


@pytest.mark.parametrize("evicted", ["forward", "both"])
def test_a_forgotten_connection_is_judged_anew(cluster: Node, evicted: str) -> None:
    """What B still sends is an answer while its entry lives; A's packets are judged by what holds now."""
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    handshake(cluster)
    table = cluster.maps["podwire_ct4"]
    table.delete(tuple4(A, B, TCP_PROTO, 40000, 80))
    if evicted == "both":
        table.delete(tuple4(B, A, TCP_PROTO, 80, 40000))
    close(cluster, POD_B, identity=B_ID)
    expected = None if evicted == "forward" else NOTHING_MATCHED
    assert b_to_a(cluster, answer(ACK)).reason == expected
    refuses(cluster, a_to_b, request(ACK))
    assert b_to_a(cluster, answer(ACK)).reason == expected
    refuses(cluster, a_to_b, request(ACK))


@pytest.mark.parametrize("send", ["from_netdev", "to_pod"])
def test_the_asking_side_of_an_answer_is_judged_when_it_comes_by_another_way(
    cluster: Node, send: str
) -> None:
    """An answer leaves an entry for what it answers, which must not stand for a judgement."""
    p.enforce(cluster, POD_B, allow(INGRESS, REMOTE_ID), identity=B_ID)
    run = getattr(cluster, send)
    assert run(outside() / tcp(REMOTE_POD, B), **({"pod": POD_B} if send == "to_pod" else {})).reason is None
    cluster.maps["podwire_ct4"].delete(tuple4(REMOTE_POD, B, TCP_PROTO, 40000, 80))
    close(cluster, POD_B, identity=B_ID)
    assert b_to_a(cluster, tcp(B, REMOTE_POD, 80, 40000, ACK)).reason is None
    for name in ("from_netdev", "to_pod"):
        kwargs = {"pod": POD_B} if name == "to_pod" else {}
        assert getattr(cluster, name)(outside() / tcp(REMOTE_POD, B, flags=ACK), **kwargs).reason == 133


def test_both_ends_that_spoke_at_once_are_judged(cluster: Node) -> None:
    """Two CPUs may each have taken the other's packet for the answer."""
    a_to_b(cluster, udp(A, B, 53, 53))
    table = cluster.maps["podwire_ct4"]
    flow = tuple4(A, B, UDP_PROTO, 53, 53)
    entry = table.get(flow)
    table.set(flow, entry | {"flags": entry["flags"] & ~8})
    p.enforce(cluster, POD_A, identity=A_ID)
    refuses(cluster, a_to_b, udp(A, B, 53, 53))
    refuses(cluster, b_to_a, udp(B, A, 53, 53))


def age(node: Node, *flow: Any, seconds: int = 601) -> None:
    table = node.maps["podwire_ct4"]
    entry = table.get(tuple4(*flow))
    old = (entry["last_seen"] - seconds * 10**9) % 2**64
    table.set(tuple4(*flow), entry | {"last_seen": old, "seen_jiffies": 0})


def test_an_answer_after_a_long_silence_is_none(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, B_ID), identity=A_ID)
    a_to_b(cluster, udp(A, B, 40000, 53))
    age(cluster, B, A, UDP_PROTO, 53, 40000)
    assert b_to_a(cluster, udp(B, A, 53, 40000)).reason is None, "the asking side was not silent"
    age(cluster, B, A, UDP_PROTO, 53, 40000)
    age(cluster, A, B, UDP_PROTO, 40000, 53)
    refuses(cluster, b_to_a, udp(B, A, 53, 40000))
    assert a_to_b(cluster, udp(A, B, 40000, 53)).reason is None
    assert b_to_a(cluster, udp(B, A, 53, 40000)).reason is None


def test_the_hosts_late_datagram_is_no_answer(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, p.HOST_ID), identity=A_ID)
    cluster.from_pod(of(POD_A) / udp(A, NODE_IP))
    assert cluster.to_pod(outside() / udp(NODE_IP, A, 53, 40000)).reason is None
    for flow in ((A, NODE_IP, UDP_PROTO, 40000, 53), (NODE_IP, A, UDP_PROTO, 53, 40000)):
        age(cluster, *flow)
    assert cluster.to_pod(outside() / udp(NODE_IP, A, 53, 40000)).reason == NOTHING_MATCHED


def test_an_echo_reply_nobody_asked_for_is_judged_as_one(cluster: Node) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, ICMP_PROTO, 8), identity=B_ID)
    refuses(cluster, a_to_b, ping(A, B, reply=True))
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, ICMP_PROTO, 0), identity=B_ID)
    assert a_to_b(cluster, ping(A, B, reply=True)).reason is None
    refuses(cluster, a_to_b, ping(A, B))
    refuses(cluster, b_to_a, ping(B, A))


def test_an_echo_request_over_an_unasked_reply_turns_the_flow_round(cluster: Node) -> None:
    a_to_b(cluster, ping(A, B, reply=True))
    assert b_to_a(cluster, ping(B, A)).reason is None
    p.enforce(cluster, POD_A, allow(INGRESS, B_ID, ICMP_PROTO, 8), identity=A_ID)
    assert a_to_b(cluster, ping(A, B, reply=True)).reason is None, "an answer by now"
    close(cluster, POD_A, identity=A_ID)
    refuses(cluster, b_to_a, ping(B, A))


# -- fragments ----------------------------------------------------------------------------------------


def pieces(packet: Packet) -> list[Packet]:
    return list(fragment(IP(bytes(packet)), fragsize=1400))


def test_all_pieces_are_judged_by_the_ports_of_the_first(cluster: Node) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, UDP_PROTO, 53), identity=B_ID)
    for part in pieces(udp(A, B, 40000, 54, data=b"d" * 4000, id=7)):
        refuses(cluster, a_to_b, part)
    for part in pieces(udp(A, B, 40000, 53, data=b"d" * 4000, id=8)):
        assert a_to_b(cluster, part).reason is None


def test_a_later_first_piece_does_not_pass_for_an_allowed_one(cluster: Node) -> None:
    """The same id twice: what is judged is what each piece belongs to."""
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, UDP_PROTO, 53), identity=B_ID)
    good = pieces(udp(A, B, 40000, 53, data=b"d" * 4000, id=9))
    bad = pieces(udp(A, B, 40000, 54, data=b"d" * 4000, id=9))
    assert a_to_b(cluster, good[0]).reason is None
    refuses(cluster, a_to_b, bad[0])
    refuses(cluster, a_to_b, good[1])


def test_a_later_piece_of_an_echo_request_is_no_echo_reply(cluster: Node) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, ICMP_PROTO, 0), identity=B_ID)
    large = ping(A, B, id=10)
    large[Raw].load = b"d" * 4000
    for part in pieces(large):
        refuses(cluster, a_to_b, part)
    refuses(cluster, a_to_b, ping(A, B))
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, ICMP_PROTO, 8), identity=B_ID)
    for part in pieces(large):
        assert a_to_b(cluster, part).reason is None


def test_messages_without_identifier_do_not_vouch_for_each_other(cluster: Node) -> None:
    """Requests and replies with the identifier 0 have the same tuple."""
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, ICMP_PROTO, 0), identity=B_ID)
    assert a_to_b(cluster, ping(A, B, ident=0, reply=True)).reason is None
    refuses(cluster, a_to_b, ping(A, B, ident=0))
    cluster.maps["podwire_ct4"].clear()
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, ICMP_PROTO, 8), identity=B_ID)
    for _ in range(2):
        assert a_to_b(cluster, ping(A, B, ident=0)).reason is None
        assert b_to_a(cluster, ping(B, A, ident=0, reply=True)).reason is None
        refuses(cluster, b_to_a, ping(B, A, ident=0))


# -- ICMP errors --------------------------------------------------------------------------------------


def test_errors_about_a_known_connection_pass(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, B_ID), allow(EGRESS, REMOTE_ID), identity=A_ID)
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    about = udp(A, B, 40000, 53)
    a_to_b(cluster, about)
    for kind, code in ((3, 3), (3, 1), (11, 1), (12, 0)):
        assert b_to_a(cluster, error(B, A, about, kind=kind, code=code)).reason is None
    far = udp(A, REMOTE_POD, 40000, 53)
    cluster.from_pod(of(POD_A) / far)
    for sender in (REMOTE_POD, OTHER_NODE, WORLD):
        assert cluster.from_netdev(outside() / error(sender, A, far, code=3)).reason is None
        assert cluster.to_pod(outside() / error(sender, A, far, code=3)).reason is None
    assert a_to_b(cluster, error(A, B, udp(B, A, 53, 40000), code=3)).reason is None, "about an answer"


@pytest.mark.parametrize(
    "about",
    [
        pytest.param(udp(B, A, 40000, 53), id="invented"),
        pytest.param(udp(B, REMOTE_POD, 40001, 53), id="somebody-elses"),
        pytest.param(udp(REMOTE_POD, A, 53, 40002), id="not-the-receivers"),
        pytest.param(udp(A, B, 40003, 53), id="its-own"),
        pytest.param(udp(B, A, 40000, 53, frag=3), id="a-later-piece"),
    ],
)
def test_errors_that_quote_what_never_was_are_judged(cluster: Node, about: Packet) -> None:
    """A may not talk to B; both have connections with others."""
    assert a_to_b(cluster, udp(A, REMOTE_POD, 40002, 53)).reason is None
    p.enforce(cluster, POD_B, allow(EGRESS, REMOTE_ID), deny(INGRESS, A_ID), identity=B_ID)
    assert b_to_a(cluster, udp(B, REMOTE_POD, 40001, 53)).reason is None
    refuses(cluster, a_to_b, error(A, B, about, code=3), DENIED)
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, ICMP_PROTO, 3), identity=B_ID)
    assert a_to_b(cluster, error(A, B, about, code=3)).reason is None
    refuses(cluster, a_to_b, error(A, B, about, kind=11, code=0))


@pytest.mark.parametrize("send", ["from_netdev", "to_pod"])
def test_errors_from_outside_that_quote_what_never_was_are_judged(cluster: Node, send: str) -> None:
    p.enforce(cluster, POD_A, identity=A_ID)
    before = p.flows(cluster)
    packet = error(WORLD, A, udp(A, WORLD, 40000, 53), code=3)
    result = getattr(cluster, send)(outside() / packet)
    assert (result.reason, p.flows(cluster)) == (NOTHING_MATCHED, before)
    (event,) = result.events
    assert (event["protocol"], event["destination_port"]) == (ICMP_PROTO, 3)


def test_fragmentation_needed_always_passes(cluster: Node) -> None:
    for pod, identity in ((POD_A, A_ID), (POD_B, B_ID)):
        close(cluster, pod, identity=identity)
    about = tcp(A, WORLD, 40000, 443, ACK)
    assert cluster.from_netdev(outside() / error(OTHER_NODE, A, about)).reason is None
    assert cluster.to_pod(outside() / error(NODE_IP, A, about)).reason is None
    assert b_to_a(cluster, error(B, A, tcp(A, B, flags=ACK))).reason is None
    assert not p.flows(cluster)


def test_errors_about_masqueraded_packets_pass(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, p.WORLD_ID), identity=A_ID)
    sent = udp(A, WORLD, 61000, 53)
    cluster.from_pod(of(POD_A) / sent)
    left = cluster.to_netdev(outside() / sent, seen=SEEN_MASQUERADE).packet[IP]
    for _ in range(2):
        assert cluster.from_netdev(outside() / error(OTHER_NODE, NODE_IP, left, code=3)).reason is None
        cluster.maps["podwire_ct4"].clear()


def test_events_tell_of_an_old_connection_only_that_it_ends(cluster: Node) -> None:
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID), identity=B_ID)
    handshake(cluster)
    cluster.bump(0)
    cluster.bump(POD_B.slot)
    assert a_to_b(cluster, request(ACK)).verdicts == []
    close(cluster, POD_B, identity=B_ID)
    (verdict,) = a_to_b(cluster, request(ACK)).verdicts
    assert verdict["verdict"] == -NOTHING_MATCHED


def test_audit_of_an_old_connection_is_told_once(cluster: Node) -> None:
    p.enforce(cluster, POD_B, identity=B_ID, audit=True)
    (verdict,) = a_to_b(cluster, request()).verdicts
    assert verdict["flags"] == 1
    assert b_to_a(cluster, answer()).reason is None
    cluster.bump(POD_B.slot)
    assert a_to_b(cluster, request(ACK)).verdicts == []
    assert cluster.ct(A, B, TCP_PROTO, 40000, 80)["packets"] == 2


# -- addresses that get other owners -------------------------------------------------------------------

SUCCESSOR_OF_A = Pod(A, "0a:00:00:00:00:1a", POD_A.device, 7)
SUCCESSOR_OF_B = Pod(B, "0a:00:00:00:00:1b", POD_B.device, 8)


def test_answers_to_a_pod_that_is_gone_do_not_reach_its_successor(cluster: Node) -> None:
    far, near = udp(A, REMOTE_POD), udp(A, B)
    cluster.from_pod(of(POD_A) / far)
    cluster.from_pod(of(POD_A) / near)
    cluster.remove(POD_A)
    p.enforce(cluster, SUCCESSOR_OF_A, identity=A_ID + 1)
    assert cluster.from_netdev(outside() / udp(REMOTE_POD, A, 53, 40000)).reason == NOTHING_MATCHED
    refuses(cluster, b_to_a, udp(B, A, 53, 40000))


def test_a_successor_does_not_answer_for_a_pod_that_is_gone(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(EGRESS, B_ID), identity=A_ID)
    cluster.from_pod(of(POD_A) / udp(A, B))
    cluster.remove(POD_B)
    cluster.add(SUCCESSOR_OF_B, identity=B_ID + 1)
    refuses(cluster, b_to_a, udp(B, A, 53, 40000))
