"""What the datapath decides by a policy map, step by step as it looks things up."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from podwire.policy.identity import UNKNOWN, is_class
from podwire.policy.model import (
    PROTOCOL_ANY,
    BlockKey,
    Compiled,
    Direction,
    Identity,
    MapKey,
    MapValue,
    Match,
)

ALLOWED = 0
POLICY_DENIED = 133
"""Drop reason: nothing allows it."""
POLICY_DENY = 181
"""Drop reason: a rule denies it."""
PORT_BITS, ADDRESS_BITS = 16, 32


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to the first packet of a connection, and why."""

    verdict: int
    """ALLOWED, POLICY_DENIED or POLICY_DENY."""
    match: Match = Match.NONE
    reason: str = ""
    """Of the entry that decided; empty: there was none."""
    block: IPv4Network | None = None
    """The peer was found by its address, in this block."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first of a connection, as the policy of one of its ends sees it."""

    direction: Direction
    identity: Identity
    """The peer's."""
    address: IPv4Address | None
    """The peer's; None: it lies in no block."""
    protocol: int
    port: int
    """Destination port; ICMP: the type."""


def decide(compiled: Compiled, packet: Packet) -> Decision:
    """Return what happens to a packet."""
    found = [
        entry
        for peer in dict.fromkeys((packet.identity, UNKNOWN))
        if (entry := _longest(compiled, peer, packet))
    ]
    block = None
    if not found and packet.address is not None:
        block, number = _block(compiled, packet.direction, packet.address)
        found = [entry for entry in [_longest(compiled, number, packet)] if block and entry]
    if not found:
        return Decision(POLICY_DENIED)
    # Deny wins; then the longer one names the reason, the peer's own if they are equal.
    key, value = max(found, key=lambda entry: (entry[1].deny, match_bits(entry[0])))
    return Decision(
        POLICY_DENY if value.deny else ALLOWED,
        match_of(key),
        compiled.reasons[value.rule - 1] if value.rule else "",
        block,
    )


def match_bits(key: MapKey) -> int:
    """Return how many bits of protocol and port an entry names."""
    return 0 if key.protocol == PROTOCOL_ANY else 8 + key.port_prefix


def match_of(key: MapKey) -> Match:
    """Return what an entry names; that of a class of addresses is one for a peer."""
    if key.protocol == PROTOCOL_ANY:
        return Match.L3_ONLY if key.identity else Match.ALL
    if key.port_prefix == 0:
        return Match.L3_PROTO if key.identity else Match.PROTO_ONLY
    return Match.L3_L4 if key.identity else Match.L4_ONLY


def _longest(compiled: Compiled, identity: Identity, packet: Packet) -> tuple[MapKey, MapValue] | None:
    keys = [MapKey(packet.direction, identity)]
    if packet.protocol != PROTOCOL_ANY:
        for free in range(PORT_BITS, -1, -1):
            port = packet.port >> free << free
            keys.append(MapKey(packet.direction, identity, packet.protocol, port, PORT_BITS - free))
    for key in reversed(keys):
        value = compiled.entries.get(key)
        if value is not None:
            return key, value
    return None


def _block(
    compiled: Compiled, direction: Direction, address: IPv4Address
) -> tuple[IPv4Network | None, Identity]:
    for length in range(ADDRESS_BITS, -1, -1):
        prefix = IPv4Network((address, length), strict=False)
        number = compiled.blocks.get(BlockKey(direction, prefix))
        if number is not None:
            return (prefix, number) if is_class(number) else (None, UNKNOWN)
    return None, UNKNOWN
