"""What an endpoint's policy says about a new flow, in either direction and host-routing mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scapy.packet import Packet

from tests.bpf import policies as p
from tests.bpf.node import NODE_IP, OK, OTHER_NODE, POD_A, POD_B, REMOTE_POD, WORLD, Node, Result, number
from tests.bpf.packets import ICMP_PROTO, SCTP_PROTO, TCP_PROTO, UDP_PROTO, of, outside, ping, sctp, tcp, udp
from tests.bpf.policies import A_ID, B_ID, DENIED, EGRESS, INGRESS, NOTHING_MATCHED, allow, block, deny

REMOTE_ID = 2002
CLASS = 0x03000001
A, B = POD_A.address, POD_B.address

Send = Callable[[Node, int, int], Result]
"""Sends a packet of a protocol to a port."""


def packet(source: str, destination: str, protocol: int, port: int) -> Packet:
    make = {TCP_PROTO: tcp, UDP_PROTO: udp}.get(protocol)
    if protocol == ICMP_PROTO:
        return ping(source, destination)
    if make is None:
        return sctp(source, destination, 40000, port)
    return make(source, destination, 40000, port)


def to_neighbour(node: Node, protocol: int = TCP_PROTO, port: int = 80) -> Result:
    return node.from_pod(of(POD_A) / packet(A, B, protocol, port))


def from_elsewhere(node: Node, protocol: int = TCP_PROTO, port: int = 80) -> Result:
    return node.from_netdev(outside() / packet(REMOTE_POD, B, protocol, port))


def to_elsewhere(node: Node, protocol: int = TCP_PROTO, port: int = 80) -> Result:
    return node.from_pod(of(POD_B) / packet(B, REMOTE_POD, protocol, port), POD_B)


def from_the_stack(node: Node, protocol: int = TCP_PROTO, port: int = 80) -> Result:
    return node.to_pod(outside() / packet(REMOTE_POD, B, protocol, port), POD_B)


def out_of_the_stack(node: Node, protocol: int = TCP_PROTO, port: int = 80) -> Result:
    return node.to_netdev(outside() / packet(B, REMOTE_POD, protocol, port))


PATHS = [
    pytest.param(to_neighbour, INGRESS, A_ID, id="from-a-pod-here"),
    pytest.param(from_elsewhere, INGRESS, REMOTE_ID, id="from-another-node"),
    pytest.param(from_the_stack, INGRESS, REMOTE_ID, id="out-of-the-stack"),
    pytest.param(to_elsewhere, EGRESS, REMOTE_ID, id="to-another-node"),
    pytest.param(out_of_the_stack, EGRESS, REMOTE_ID, id="from-the-stack-to-another-node"),
]

ONE_EACH = [PATHS[0], PATHS[3]]
"""One path for either direction: the lookups are the same code for all."""


@pytest.fixture
def cluster(either: Node) -> Node:
    """A node whose pods and neighbours have identities, and no policies."""
    either.add(POD_A, identity=A_ID)
    either.add(POD_B, identity=B_ID)
    either.know(f"{REMOTE_POD}/32", 1, OTHER_NODE, REMOTE_ID)
    return either


def assert_refused(node: Node, send: Callable[[], Result], reason: int, direction: int) -> Result:
    """Dropped, counted and reported under ``direction``, and nothing remembered."""
    before = p.flows(node)
    result = send()
    assert result.reason == reason
    assert list(result.drops) == [(reason, direction + 1)]
    assert p.flows(node) == before, "a refused packet leaves no trace"
    return result


@pytest.mark.parametrize(("send", "direction", "peer"), PATHS)
def test_what_no_rule_allows_is_refused(cluster: Node, send: Send, direction: int, peer: int) -> None:
    assert send(cluster).reason is None, "without a policy everything passes"
    cluster.maps["podwire_ct4"].clear()
    number = p.enforce(cluster, POD_B, allow(direction, peer, UDP_PROTO, 53), identity=B_ID)
    result = assert_refused(cluster, lambda: send(cluster), NOTHING_MATCHED, direction)
    (event,) = result.events
    ends = {direction: B_ID, 1 - direction: peer}
    assert (event["source_identity"], event["destination_identity"]) == (ends[EGRESS], ends[INGRESS])
    assert (event["rule"], event["policy"]) == (0, number)
    assert send(cluster, UDP_PROTO, 53).reason is None


@pytest.mark.parametrize(("send", "direction", "peer"), ONE_EACH)
@pytest.mark.parametrize(
    ("entries", "reason", "match"),
    [
        ([("allow", {"peer": True})], None, p.L3_ONLY),
        ([("allow", {"peer": True, "protocol": 6})], None, p.L3_PROTO),
        ([("allow", {"peer": True, "protocol": 6, "port": 80})], None, p.L3_L4),
        ([("allow", {"protocol": 6, "port": 80})], None, p.L4_ONLY),
        ([("allow", {"protocol": 6})], None, p.PROTO_ONLY),
        ([("allow", {})], None, p.ALL),
        ([("allow", {"peer": True, "protocol": 6, "port": 64, "bits": 10})], None, p.L3_L4),
        ([("allow", {"protocol": 6, "port": 80, "bits": 15})], None, p.L4_ONLY),
        ([("allow", {"protocol": 6, "port": 82, "bits": 15})], NOTHING_MATCHED, p.NONE),
        ([("allow", {"protocol": 6, "port": 81})], NOTHING_MATCHED, p.NONE),
        ([("allow", {"protocol": 17, "port": 80})], NOTHING_MATCHED, p.NONE),
        ([("allow", {"protocol": 17})], NOTHING_MATCHED, p.NONE),
        ([("deny", {"peer": True})], DENIED, p.L3_ONLY),
        ([("deny", {"protocol": 6, "port": 80})], DENIED, p.L4_ONLY),
        ([("deny", {})], DENIED, p.ALL),
        ([("allow", {"peer": True, "protocol": 6, "port": 80}), ("deny", {})], DENIED, p.ALL),
        ([("allow", {}), ("deny", {"peer": True})], DENIED, p.L3_ONLY),
        ([("allow", {"protocol": 6, "port": 80}), ("deny", {"peer": True})], DENIED, p.L3_ONLY),
        ([("deny", {"peer": True}), ("allow", {"peer": True, "protocol": 6, "port": 80})], None, p.L3_L4),
        ([("allow", {"peer": True}), ("deny", {"peer": True, "protocol": 6, "port": 81})], None, p.L3_ONLY),
        ([("allow", {"peer": True}), ("allow", {"protocol": 6, "port": 80})], None, p.L4_ONLY),
        ([("allow", {"peer": True}), ("allow", {})], None, p.L3_ONLY),
    ],
)
def test_the_longest_entries_decide(
    cluster: Node,
    send: Send,
    direction: int,
    peer: int,
    entries: list[tuple[str, dict[str, int]]],
    reason: int | None,
    match: int,
) -> None:
    """The map's own order: the compiler writes maps in which this gives what policies mean."""
    made = []
    for kind, fields in entries:
        named = {"peer": peer} if fields.get("peer") else {}
        made.append({"allow": allow, "deny": deny}[kind](direction, **fields | named))
    other = allow(1 - direction, 0, rule=77)
    number = p.enforce(cluster, POD_B, *made, other, identity=B_ID)
    if reason is None:
        result = send(cluster)
        assert result.reason is None
    else:
        result = assert_refused(cluster, lambda: send(cluster), reason, direction)
    (verdict,) = result.verdicts
    assert (verdict["version"], verdict["type"], verdict["family"]) == (2, 5, 4)
    assert (verdict["direction"], verdict["match"]) == (direction + 1, match)
    assert verdict["verdict"] == -(reason or 0)
    assert verdict["rule"] == {None: 1, DENIED: 9, NOTHING_MATCHED: 0}[reason]
    assert (verdict["policy"], verdict["flags"]) == (number, 0)
    assert (verdict["protocol"], verdict["destination_port"]) == (TCP_PROTO, 80)
    ends = {direction: B_ID, 1 - direction: peer}
    assert (verdict["source_identity"], verdict["destination_identity"]) == (ends[EGRESS], ends[INGRESS])
    if reason:
        assert [event["rule"] for event in result.events] == [verdict["rule"]]


@pytest.mark.parametrize(("send", "direction", "peer"), PATHS)
def test_a_final_entry_is_not_compared_with_what_holds_for_any_peer(
    cluster: Node, send: Send, direction: int, peer: int
) -> None:
    """Whoever writes it knows that nothing there can outrank it; a deny would, and shows that nobody asks."""
    everybody = deny(direction), allow(direction, 0, TCP_PROTO, 80, rule=2)
    p.enforce(cluster, POD_B, allow(direction, peer, rule=3, final=True), *everybody, identity=B_ID)
    (verdict,) = send(cluster).verdicts
    assert (verdict["verdict"], verdict["rule"], verdict["match"]) == (0, 3, p.L3_ONLY)


@pytest.mark.parametrize(("send", "direction", "peer"), PATHS)
def test_an_endpoint_is_closed_when_its_number_has_no_entries_or_no_map(
    cluster: Node, send: Send, direction: int, peer: int
) -> None:
    for closed in (p.write(cluster), p.CLOSED, 2047, 2048, 0xFFFFFFFF):
        cluster.add(POD_B, identity=B_ID, policy=closed)
        assert_refused(cluster, lambda: send(cluster), NOTHING_MATCHED, direction)


@pytest.mark.parametrize(
    ("protocol", "port"), [(TCP_PROTO, 80), (UDP_PROTO, 80), (SCTP_PROTO, 80), (ICMP_PROTO, 8)]
)
@pytest.mark.parametrize(("send", "direction", "peer"), PATHS)
def test_protocols_are_told_apart_and_ping_is_its_type(
    cluster: Node, send: Send, direction: int, peer: int, protocol: int, port: int
) -> None:
    p.enforce(cluster, POD_B, allow(direction, peer, protocol, port), identity=B_ID)
    for other in (TCP_PROTO, UDP_PROTO, SCTP_PROTO, ICMP_PROTO):
        if other == protocol:
            (verdict,) = send(cluster, other, port).verdicts
            assert (verdict["verdict"], verdict["destination_port"]) == (0, port)
        else:
            assert_refused(cluster, lambda other=other: send(cluster, other, 80), NOTHING_MATCHED, direction)


def test_both_ends_on_one_node_are_judged_by_the_sender(cluster: Node) -> None:
    """Egress first; the ingress verdict is the receiver's."""
    p.enforce(cluster, POD_A, allow(EGRESS, B_ID, rule=3), identity=A_ID)
    p.enforce(cluster, POD_B, allow(INGRESS, A_ID, rule=4), identity=B_ID)
    verdicts = to_neighbour(cluster).verdicts
    assert [(v["direction"], v["verdict"], v["rule"]) for v in verdicts] == [(2, 0, 3), (1, 0, 4)]

    p.enforce(cluster, POD_B, identity=B_ID)
    result = assert_refused(cluster, lambda: to_neighbour(cluster), NOTHING_MATCHED, INGRESS)
    assert [(v["direction"], v["verdict"]) for v in result.verdicts] == [(2, 0), (1, -133)]

    p.enforce(cluster, POD_A, deny(EGRESS, B_ID), identity=A_ID)
    result = assert_refused(cluster, lambda: to_neighbour(cluster), DENIED, EGRESS)
    assert [(v["direction"], v["verdict"]) for v in result.verdicts] == [(2, -181)]


def test_a_pod_always_reaches_itself(cluster: Node) -> None:
    cluster.add(POD_A, identity=A_ID, policy=p.CLOSED)
    assert cluster.from_pod(of(POD_A) / tcp(A, A)).reason is None


def test_identities_of_others(cluster: Node) -> None:
    """Its own node is the host, whom the ipcache does not know is the world."""
    cluster.know(f"{OTHER_NODE}/32", 4, identity=6)
    cluster.know("203.0.113.0/24", 0, identity=0x01000001)
    cluster.know("203.0.113.128/25", 0)
    p.enforce(cluster, POD_A, identity=A_ID)
    for address, identity in (
        (NODE_IP, p.HOST_ID),
        (OTHER_NODE, 6),
        (WORLD, 0x01000001),
        ("203.0.113.200", p.WORLD_ID),
        ("198.51.100.1", p.WORLD_ID),
    ):
        (event,) = cluster.from_pod(of(POD_A) / tcp(A, address)).events
        assert (address, event["destination_identity"]) == (address, identity)
        if address != NODE_IP:
            (event,) = cluster.from_netdev(outside() / tcp(address, A)).events
            assert (address, event["source_identity"]) == (address, identity)
        (event,) = cluster.to_pod(outside() / tcp(address, A)).events
        assert (address, event["source_identity"]) == (address, identity)


def test_nobody_is_not_everybody(cluster: Node) -> None:
    """An endpoint without identity meets only what rules grant any peer."""
    cluster.add(POD_A)
    p.enforce(cluster, POD_B, allow(INGRESS, 0, TCP_PROTO, 80), identity=B_ID)
    (verdict,) = to_neighbour(cluster).verdicts
    assert (verdict["match"], verdict["source_identity"]) == (p.L4_ONLY, 0)
    assert to_neighbour(cluster, TCP_PROTO, 81).reason == NOTHING_MATCHED


@pytest.mark.parametrize(("send", "direction", "peer"), PATHS)
def test_blocks_of_addresses_are_asked_when_no_identity_matches(
    cluster: Node, send: Send, direction: int, peer: int
) -> None:
    inside = f"{A if peer == A_ID else REMOTE_POD}/32"
    tcp_80 = allow(direction, CLASS, TCP_PROTO, 80, rule=5)
    wide = [block(direction, "10.0.0.0/8", CLASS), tcp_80]
    p.enforce(cluster, POD_B, *wide, identity=B_ID)
    (verdict,) = send(cluster).verdicts
    assert (verdict["verdict"], verdict["rule"], verdict["match"]) == (0, 5, p.L3_L4)
    assert send(cluster, TCP_PROTO, 81).reason == NOTHING_MATCHED

    for entries, reason in (
        ([block(1 - direction, "10.0.0.0/8", CLASS), tcp_80], NOTHING_MATCHED),
        ([block(direction, "192.168.0.0/16", CLASS), tcp_80], NOTHING_MATCHED),
        ([*wide, block(direction, inside, CLASS + 1)], NOTHING_MATCHED),
        ([*wide, block(direction, inside, CLASS + 1), deny(direction, CLASS + 1)], DENIED),
        ([*wide, block(direction, "0.0.0.0/0", CLASS + 1), deny(direction, CLASS + 1)], None),
        ([*wide, deny(direction, peer)], DENIED),
        ([block(direction, inside, CLASS), deny(direction, CLASS), allow(direction, peer)], None),
        ([block(direction, inside, CLASS), deny(direction, CLASS), allow(direction, 0)], None),
        ([block(direction, "0.0.0.0/0", CLASS), allow(direction, CLASS)], None),
    ):
        cluster.maps["podwire_ct4"].clear()
        p.enforce(cluster, POD_B, *entries, identity=B_ID)
        assert send(cluster).reason == reason, entries


@pytest.mark.parametrize(("send", "direction", "peer"), PATHS)
def test_audit_lets_pass_and_tells(cluster: Node, send: Send, direction: int, peer: int) -> None:
    p.enforce(cluster, POD_B, deny(direction, peer), identity=B_ID, audit=True)
    result = send(cluster)
    assert (result.reason, result.events) == (None, [])
    (verdict,) = result.verdicts
    assert (verdict["verdict"], verdict["flags"], verdict["rule"]) == (-DENIED, 1, 9)
    p.enforce(cluster, POD_B, allow(direction, peer), identity=B_ID, audit=True)
    (verdict,) = send(cluster).verdicts
    assert (verdict["verdict"], verdict["flags"]) == (0, 0)
    p.enforce(cluster, POD_B, deny(direction, peer), identity=B_ID)
    assert_refused(cluster, lambda: send(cluster), DENIED, direction)


def test_audit_of_one_end_does_not_open_the_other(cluster: Node) -> None:
    p.enforce(cluster, POD_A, identity=A_ID, audit=True)
    p.enforce(cluster, POD_B, identity=B_ID)
    result = assert_refused(cluster, lambda: to_neighbour(cluster), NOTHING_MATCHED, INGRESS)
    assert [(v["direction"], v["flags"]) for v in result.verdicts] == [(2, 1), (1, 0)]


def test_endpoints_without_policy_look_nothing_up_and_tell_nothing(cluster: Node) -> None:
    result = to_neighbour(cluster)
    assert (result.reason, result.verdicts) == (None, [])


def test_what_arrives_before_an_endpoint_is_known_is_refused(cluster: Node) -> None:
    cluster.remove(POD_B)
    assert cluster.to_pod(outside() / tcp(NODE_IP, B), POD_B).reason == 151
    assert cluster.from_netdev(outside() / tcp(WORLD, B)).reason == 151
    assert cluster.from_pod(of(POD_B) / tcp(B, A), POD_B).reason == 132


def test_the_kubelet_is_the_host(cluster: Node) -> None:
    p.enforce(cluster, POD_A, allow(INGRESS, p.HOST_ID), identity=A_ID)
    result = cluster.to_pod(outside() / tcp(NODE_IP, A))
    assert (result.verdict, result.forwards) == (OK, {"POD_TRANSLATED": 1})
    answer = cluster.from_pod(of(POD_A) / tcp(A, NODE_IP, 80, 40000, "SA"))
    assert (answer.verdict, answer.verdicts) == (OK, []), "egress is closed, but this is an answer"
    assert_refused(cluster, lambda: cluster.from_pod(of(POD_A) / tcp(A, NODE_IP)), NOTHING_MATCHED, EGRESS)


def test_policies_can_be_off(devices: None, objects: object) -> None:
    with Node(objects, cfg_policy=0) as node:  # type: ignore[arg-type]
        node.add(POD_B, identity=B_ID, policy=p.CLOSED)
        for send in (to_neighbour, from_elsewhere, from_the_stack, to_elsewhere, out_of_the_stack):
            result = send(node)
            assert (result.reason, result.verdicts) == (None, [])


def test_verdicts_have_a_budget_of_their_own(devices: None, objects: object) -> None:
    with Node(objects, cfg_event_rate=1) as node:  # type: ignore[arg-type]
        p.enforce(node, POD_B, identity=B_ID)
        results = [to_neighbour(node, UDP_PROTO, port) for port in range(1, 60)]
        drops = [event for result in results for event in result.events]
        verdicts = [event for result in results for event in result.verdicts]
        for kind, events in ((0, drops), (1, []), (2, verdicts)):
            # Told by a later event, or still to be told: how many of each depends on the clock.
            withheld = sum(cpu["suppressed"] for cpu in node.maps["podwire_event_budget"].get(kind))
            withheld += sum(event["suppressed"] for event in events)
            assert len(events) + withheld == (len(results) if events else 0)
        assert 1 <= len(verdicts) < len(results) and 1 <= len(drops) < len(results)


def test_events_name_the_packet(node: Node) -> None:
    node.add(POD_A, identity=A_ID)
    policy = p.enforce(node, POD_B, identity=B_ID)
    frame = of(POD_A) / tcp(A, B, 40001, 443)
    result = node.from_pod(frame)
    (drop,), (verdict,) = result.events, result.verdicts
    assert drop["source_address"] == bytes([10, 1, 1, 2]) + bytes(12)
    assert drop["destination_address"] == bytes([10, 1, 1, 3]) + bytes(12)
    assert (verdict["source_address"], verdict["destination_address"]) == (number(A), number(B))
    for event in (drop, verdict):
        assert (event["source_port"], event["destination_port"]) == (40001, 443)
        assert (event["source_identity"], event["destination_identity"]) == (A_ID, B_ID)
        assert (event["policy"], event["program"], event["direction"]) == (policy, 1, 1)
        assert event["timestamp"] > 0
    assert verdict["packet_length"] == len(frame) - 14
