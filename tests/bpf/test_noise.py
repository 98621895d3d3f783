"""Damaged packets: whatever arrives, it is delivered whole, left alone, or dropped with one reason."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP, IPOption

from tests.bpf import node as n
from tests.bpf import services as s
from tests.bpf.node import NODE_IP, OK, POD_A, POD_B, REDIRECT, REMOTE_POD, SHOT, VIP, WORLD, Node
from tests.bpf.packets import checked, error, of, outside, ping, tcp, udp

A, B = POD_A.address, POD_B.address
SENT = [
    tcp(A, B),
    udp(A, REMOTE_POD),
    ping(A, WORLD),
    error(A, WORLD, udp(WORLD, A)),
    tcp(A, WORLD, flags="R"),
]
ARRIVING = [
    tcp(REMOTE_POD, A), udp(WORLD, NODE_IP, 53, 61000), ping(WORLD, NODE_IP, 61000, reply=True),
    error(WORLD, NODE_IP, udp(NODE_IP, WORLD, 61000)), error(WORLD, A, tcp(A, WORLD)),
]  # fmt: skip
PROGRAMS = {"from_pod": SENT, "to_netdev": SENT, "from_netdev": ARRIVING, "to_pod": ARRIVING}
ROUNDS = 60


def damaged(packet: bytes, chance: random.Random) -> bytes:
    """Flip, cut, stretch or overwrite some bytes behind the Ethernet header."""
    data = bytearray(packet)
    for _ in range(chance.randrange(1, 4)):
        where = chance.randrange(14, min(len(data), 74))
        data[where] = chance.choice(
            (0, 0xFF, data[where] ^ (1 << chance.randrange(8)), chance.randrange(256))
        )
    if chance.random() < 0.3:
        del data[max(34, chance.randrange(34, len(data) + 1)) :]
    return bytes(data)


@pytest.mark.parametrize("program", PROGRAMS)
def test_noise_has_a_defined_end(either: Node, program: str) -> None:
    chance = random.Random(program)
    device = "eth0" if program.endswith("netdev") else POD_A.device
    seen = n.SEEN_MASQUERADE if program == "to_netdev" else 0
    frame = of(POD_A) if program == "from_pod" else outside()
    for number in range(ROUNDS):
        packet = damaged(bytes(frame / chance.choice(PROGRAMS[program])), chance)
        result = either.run(program, packet, device, seen=seen)  # type: ignore[arg-type]
        assert result.verdict in (OK, SHOT, REDIRECT), f"round {number}: {packet.hex()}"
        assert (result.reason is None) == (result.verdict != SHOT)
        assert len(bytes(result.packet)) == len(packet)


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_passes_is_not_damaged(either: Node, program: str) -> None:
    """Fields that routers may rely on change; the checksums must stay right through every rewrite."""
    chance = random.Random(program)
    device = "eth0" if program.endswith("netdev") else POD_A.device
    seen = n.SEEN_MASQUERADE if program == "to_netdev" else 0
    frame = of(POD_A) if program == "from_pod" else outside()
    for _ in range(ROUNDS // 3):
        packet = IP(bytes(chance.choice(PROGRAMS[program])))
        packet.tos, packet.id, packet.ttl = (
            chance.randrange(256),
            chance.randrange(65536),
            chance.randrange(1, 256),
        )
        del packet.chksum
        result = either.run(program, frame / packet, device, seen=seen)
        if result.verdict != SHOT:
            after = checked(result.packet)
            assert (after.tos, after.id) == (packet.tos, packet.id)
            assert after.ttl == packet.ttl - (result.verdict == REDIRECT)


NODE_PORT = 30080
OPTION = IPOption(bytes([0x9A, 8]) + NODE_PORT.to_bytes(2, "big") + n.number(n.OTHER_NODE).to_bytes(4, "big"))
TO_SERVICES = [
    tcp(A, VIP),
    tcp(A, VIP, flags="A"),
    udp(A, VIP, dport=80),
    udp(A, VIP, dport=81),
    tcp(A, NODE_IP, dport=NODE_PORT),
    ping(A, VIP),
    error(A, VIP, udp(VIP, A, 80, 40000)),
    udp(A, VIP, dport=80, flags="MF"),
]
FROM_OUTSIDE = [
    tcp(WORLD, NODE_IP, dport=NODE_PORT),
    tcp(WORLD, NODE_IP, dport=NODE_PORT, flags="A"),
    udp(WORLD, NODE_IP, dport=NODE_PORT),
    tcp(WORLD, B, dport=8080, options=[OPTION]),
    udp(WORLD, B, dport=8080, options=[OPTION]),
    tcp(WORLD, NODE_IP, dport=8080, options=[OPTION]),
    tcp(WORLD, VIP),
    error(WORLD, NODE_IP, tcp(NODE_IP, WORLD, NODE_PORT, 40000)),
    tcp(REMOTE_POD, A, 8080, 40000, "SA"),
    error(REMOTE_POD, A, tcp(A, REMOTE_POD, 40000, 8080)),
]
ANSWERS = [
    tcp(B, A, 8080, 40000, "SA"),
    udp(B, A, 8080, 40000),
    error(B, A, udp(A, B, 40000, 8080)),
    tcp(NODE_IP, WORLD, 8080, 40000, "SA"),
    tcp(NODE_IP, VIP),
]
SERVICE_PROGRAMS = {
    "from_pod": (TO_SERVICES, 0),
    "from_netdev": (FROM_OUTSIDE, 0),
    "to_pod": (ANSWERS, s.SEEN_TRANSLATE),
    "to_netdev": (ANSWERS, 0),
}


@pytest.mark.parametrize("program", SERVICE_PROGRAMS)
@pytest.mark.parametrize("dsr", [0, 1])
def test_noise_around_services_has_a_defined_end(proxy: Node, program: str, dsr: int) -> None:
    """And whoever is answered is answered with a right packet."""
    if dsr:
        proxy.load(cfg_services=1, cfg_dsr=1)
    for protocol in (6, 17):
        backends = [(POD_B.address, 8080), (REMOTE_POD, 8080), (NODE_IP, 8080), (A, 8080)]
        proxy.services.expose(VIP, 80, protocol, backends)
        proxy.services.expose(s.ANY, NODE_PORT, protocol, backends, flags=s.NODE_PORT)
    chance = random.Random(program)
    device = "eth0" if program.endswith("netdev") else POD_A.device
    frame = of(POD_A) if program == "from_pod" else outside()
    packets, seen = SERVICE_PROGRAMS[program]
    for number in range(ROUNDS * 2):
        packet = bytes(frame / chance.choice(packets))
        if number % 2:
            packet = damaged(packet, chance)
        result = proxy.run(program, packet, device, seen=seen)  # type: ignore[arg-type]
        assert result.verdict in (OK, SHOT, REDIRECT), f"round {number}: {packet.hex()}"
        if "REJECTED" in result.forwards:
            assert result.verdict == REDIRECT and set(result.drops) == {(158, n.DIRECTIONS[program])}
        else:
            assert (result.reason is None) == (result.verdict != SHOT)
        if result.verdict != SHOT and not number % 2:
            checked(result.packet)
