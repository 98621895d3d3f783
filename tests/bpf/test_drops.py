"""Every drop has one reason, one count and one event."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.packet import Packet, Raw

from podwire.bpf import possible_cpus
from podwire.bpf.btf import Kind
from tests.bpf import node as n
from tests.bpf.node import DIRECTIONS, GATEWAY, NODE_IP, OK, POD_A, POD_B, REMOTE_POD, SHOT, WORLD, Node
from tests.bpf.packets import error, of, outside, tcp, udp

A, B = POD_A.address, POD_B.address


def raw(length: int = 20, **ip: Any) -> Packet:
    return IP(**({"src": A, "dst": B} | ip)) / Raw(bytes(length))


FROM_POD = [
    pytest.param(raw(proto=4), 142, id="ipip"),
    pytest.param(raw(proto=47), 142, id="gre"),
    pytest.param(raw(proto=50), 142, id="esp"),
    pytest.param(raw(proto=2, dst="224.0.0.22"), 142, id="igmp"),
    pytest.param(raw(4, proto=17), 135, id="udp-cut-short"),
    pytest.param(raw(13, proto=6), 135, id="tcp-cut-short"),
    pytest.param(raw(7, proto=1), 135, id="icmp-cut-short"),
    pytest.param(raw(7, proto=132), 135, id="sctp-cut-short"),
    pytest.param(IP(src=A, dst=B) / ICMP(type=5), 144, id="icmp-redirect"),
    pytest.param(IP(src=A, dst=B) / ICMP(type=13), 144, id="icmp-timestamp"),
    pytest.param(IP(src=A, dst=B) / ICMP(type=3, code=3), 135, id="error-that-quotes-nothing"),
    pytest.param(error(A, B, udp(B, A), code=3, quote=24), 135, id="error-that-quotes-too-little"),
    pytest.param(IP(src=A, dst=B) / ICMP(type=3, code=3) / Raw(bytes(28)), 134, id="error-that-quotes-noise"),
    pytest.param(raw(version=5), 134, id="version-5"),
    pytest.param(raw(ihl=4), 134, id="header-too-short"),
    pytest.param(raw(len=19), 134, id="length-below-header"),
    pytest.param(raw(len=100), 134, id="length-beyond-packet"),
    pytest.param(raw(len=0), 134, id="length-0"),
    pytest.param(udp(A, GATEWAY), 150, id="to-the-gateway-itself"),
    pytest.param(udp(A, "224.0.0.251"), 150, id="to-multicast"),
    pytest.param(udp(A, "255.255.255.255"), 150, id="to-broadcast"),
    pytest.param(udp(A, "127.0.0.1"), 150, id="to-loopback"),
    pytest.param(udp(A, "0.0.0.0"), 150, id="to-nowhere"),
    pytest.param(udp(A, "10.1.1.200"), 151, id="to-a-pod-that-is-not"),
    pytest.param(udp("10.1.1.200", B), 132, id="from-a-pod-that-is-not"),
]


@pytest.mark.parametrize(("packet", "reason"), FROM_POD)
def test_refused_from_pods(either: Node, packet: Packet, reason: int) -> None:
    frame = of(POD_A) / packet
    frame.type = 0x0800
    result = either.from_pod(frame)
    assert (result.verdict, result.reason) == (SHOT, reason)
    assert not list(either.maps["podwire_ct4"].items())


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        pytest.param(raw(src=WORLD, dst=A, proto=4), 142, id="ipip"),
        pytest.param(raw(13, src=WORLD, dst=A, proto=6), 135, id="tcp-cut-short"),
        pytest.param(IP(src=WORLD, dst=A) / ICMP(type=13), 144, id="icmp-timestamp"),
        pytest.param(error(WORLD, A, udp(A, WORLD), quote=22), 135, id="error-that-quotes-too-little"),
        pytest.param(udp(WORLD, "10.1.1.200"), 151, id="to-a-pod-that-is-not"),
        pytest.param(udp(B, A), 132, id="in-a-pods-name"),
    ],
)
def test_refused_from_outside(either: Node, packet: Packet, reason: int) -> None:
    assert either.from_netdev(outside() / packet).reason == reason


@pytest.mark.parametrize("destination", [NODE_IP, "198.51.100.1"])
def test_what_is_not_for_a_pod_is_not_judged(either: Node, destination: str) -> None:
    for packet in (raw(src=WORLD, dst=destination, proto=4), raw(13, src=WORLD, dst=destination, proto=6)):
        assert either.from_netdev(outside() / packet).verdict == OK


def test_refused_out_of_the_stack(either: Node) -> None:
    assert either.to_pod(outside() / raw(src=NODE_IP, dst=A, proto=4)).reason == 142
    assert either.to_netdev(outside() / raw(src=A, dst=WORLD, proto=4)).reason == 142


def test_an_event_says_what_was_dropped_and_where(node: Node) -> None:
    packet = of(POD_A) / tcp("10.1.1.200", REMOTE_POD, 40000, 80)
    (event,) = node.from_pod(packet).events
    assert event["version"] == 2 and event["type"] == 1
    assert (event["reason"], event["direction"], event["program"]) == (132, DIRECTIONS["from_pod"], 1)
    assert (event["family"], event["protocol"], event["ether_type"]) == (4, 6, 0x0800)
    assert event["source_address"] == bytes([10, 1, 1, 200]) + bytes(12)
    assert event["destination_address"] == bytes([10, 1, 2, 9]) + bytes(12)
    assert (event["source_port"], event["destination_port"]) == (40000, 80)
    assert event["ifindex"] == n.device_index(POD_A.device)
    assert event["packet_length"] == len(packet)
    assert event["timestamp"] > 0 and event["line"] > 0


@pytest.mark.parametrize("name", ["from_pod", "to_pod", "from_netdev", "to_netdev"])
def test_drops_are_counted_by_direction(node: Node, name: str) -> None:
    source, destination = (A, WORLD) if name in ("from_pod", "to_netdev") else (WORLD, A)
    device = "eth0" if name.endswith("netdev") else POD_A.device
    frame = outside() / raw(src=source, dst=destination, proto=4)
    for count in (1, 2):
        result = node.run(name, frame, device)
        assert result.drops == {(142, DIRECTIONS[name]): 1}
        values = node.maps["podwire_metrics"].get({"reason": 142, "direction": DIRECTIONS[name]})
        assert sum(value["packets"] for value in values) == count
        assert sum(value["bytes"] for value in values) == count * len(frame)


def test_events_are_limited_and_counters_are_not(devices: None, objects: Any) -> None:
    with Node(objects, cfg_event_rate=5) as node:
        started = time.monotonic()
        results = [node.from_pod(of(POD_A) / raw(proto=4)) for _ in range(40)]
        seconds = int(time.monotonic() - started) + 2  # begun ones count
        events = [event for result in results for event in result.events]
        assert sum(sum(result.drops.values()) for result in results) == 40
        assert 5 <= len(events) <= 5 * seconds * possible_cpus()
        budget = node.maps["podwire_event_budget"].get(0)
        withheld = sum(cpu["suppressed"] for cpu in budget) + sum(event["suppressed"] for event in events)
        assert withheld + len(events) == 40


def test_events_can_be_off(devices: None, objects: Any) -> None:
    with Node(objects, cfg_event_rate=0) as node:
        result = node.from_pod(of(POD_A) / raw(proto=4))
        assert (result.events, sum(result.drops.values())) == ([], 1)


def test_a_full_event_buffer_drops_events_not_counts(devices: None, objects: Any) -> None:
    with Node(objects) as node:
        program = node.programs["from_pod"]
        frame = bytes(of(POD_A) / raw(proto=4))
        program.test_run(frame, ctx={"ifindex": n.device_index(POD_A.device)}, repeat=5000)
        counted = node.maps["podwire_metrics"].get({"reason": 142, "direction": 2})
        assert sum(cpu["packets"] for cpu in counted) == 5000
        assert sum(cpu["suppressed"] for cpu in node.maps["podwire_event_budget"].get(0)) > 0


def test_a_full_conntrack_table_is_a_drop_with_a_reason(devices: None, objects: Any) -> None:
    with Node(objects, replaced={"podwire_ct4": "full_ct4"}) as node:
        assert node.from_pod(of(POD_A) / udp(A, B)).reason == 155
        assert node.from_netdev(outside() / udp(WORLD, B)).reason == 155
        assert node.to_pod(outside() / udp(NODE_IP, A)).reason == 155


def test_a_full_nat_table_is_a_drop_with_a_reason(devices: None, objects: Any) -> None:
    with Node(objects, replaced={"podwire_nat4": "full_nat4"}) as node:
        assert node.to_netdev(outside() / udp(A, WORLD), seen=n.SEEN_MASQUERADE).reason == 167
        assert node.nat(WORLD, NODE_IP, 17, 53, 61000) is None, "no half a mapping stays behind"
        assert len(list(node.maps["podwire_nat4"].items())) == 0


def test_the_fib_refuses_a_packet_it_cannot_ask_about(node: Node) -> None:
    """Not a drop: forwarding is off on the device, so the stack decides."""
    setting = Path(f"/proc/sys/net/ipv4/conf/{POD_A.device}/forwarding")
    setting.write_text("0")
    try:
        assert node.from_pod(of(POD_A) / udp(A, WORLD)).forwards == {"STACK": 1}
    finally:
        setting.write_text("1")


def test_reasons_have_their_numbers(node: Node) -> None:
    found = node.btf.find("podwire_drop_reason", Kind.ENUM)
    assert found is not None, "the command line finds names of reasons in the object's type information"
    names = {value: label.removeprefix("PODWIRE_DROP_") for label, value in found.values.items()}
    assert names[132] == "INVALID_SOURCE_IP"
    assert names[142] == "UNKNOWN_L4"
    assert names[167] == "NAT_NO_MAPPING"
    assert len(names) == len(found.values), "no number has two meanings"
