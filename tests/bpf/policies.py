"""Policies in the maps of a node, as the agent writes them: a fresh map under a fresh number each time."""

from __future__ import annotations

import ipaddress
import itertools
import struct
from dataclasses import dataclass

from podwire.bpf import Map, MapType
from tests.bpf.node import Node, Pod

INGRESS, EGRESS = 0, 1
"""In keys; events say 1 and 2."""
CLOSED = 1
HOST_ID, WORLD_ID = 1, 2
AUDIT = 2
"""Flag of an endpoint."""
NOTHING_MATCHED, DENIED = 133, 181
NONE, L3_ONLY, L3_L4, L4_ONLY, ALL, L3_PROTO, PROTO_ONLY = range(7)
_NO_PREALLOC = 1
_DENY, _BLOCK, _FINAL = 1, 2, 4


@dataclass(frozen=True)
class Entry:
    """One entry of a policy map: its key's bytes, and its value's."""

    key: bytes
    value: bytes


def allow(
    direction: int,
    peer: int = 0,
    protocol: int = 0,
    port: int | None = None,
    *,
    bits: int = 16,
    rule: int = 1,
    final: bool = False,
) -> Entry:
    """``port`` None: every one of the protocol; ``bits``: how many leading ones must agree; ``final``:
    nothing that holds for any peer can outrank it."""
    return _entry(direction, peer, protocol, port, bits, _FINAL if final else 0, rule)


def deny(
    direction: int,
    peer: int = 0,
    protocol: int = 0,
    port: int | None = None,
    *,
    bits: int = 16,
    rule: int = 9,
) -> Entry:
    return _entry(direction, peer, protocol, port, bits, _DENY, rule)


def block(direction: int, prefix: str, number: int) -> Entry:
    """Give the addresses of ``prefix`` the class ``number``."""
    network = ipaddress.IPv4Network(prefix)
    length = 32 + network.prefixlen
    key = struct.pack("=II", length, 0xFFFFFF00 | direction) + network.network_address.packed
    return Entry(key, struct.pack("=HBBI", 0, _BLOCK, length, number))


def _entry(
    direction: int, peer: int, protocol: int, port: int | None, bits: int, flags: int, rule: int
) -> Entry:
    length = 40 if not protocol else 48 if port is None else 48 + bits
    key = struct.pack("=IIBB", length, peer, direction, protocol) + struct.pack(">H", port or 0)
    return Entry(key, struct.pack("=HBBI", 0, flags, length, rule))


_numbers = itertools.count(2)


def write(node: Node, *entries: Entry) -> int:
    """Put a policy in place; returns its number."""
    number = next(_numbers) % 2046 + 2
    size = max(len(entries), 1)
    with Map.create(
        MapType.LPM_TRIE, "podwire_policy", key_size=12, value_size=8, max_entries=size, flags=_NO_PREALLOC
    ) as trie:
        trie.raw_set_many([(entry.key, entry.value) for entry in entries])
        node.maps["podwire_policies"].set_inner(number, trie)
    return number


def enforce(node: Node, pod: Pod, *entries: Entry, identity: int, audit: bool = False) -> int:
    """Give ``pod`` a policy of ``entries``, without moment in which it has another; returns its number."""
    number = write(node, *entries)
    node.add(pod, identity=identity, policy=number, flags=AUDIT if audit else 0)
    return number


A_ID, B_ID = 1001, 1002
"""Identities of the two pods, where tests need them."""


def flows(node: Node) -> dict[str, object]:
    """The conntrack table as a value: what a refused packet must leave as it was."""
    return {str(key): value for key, value in node.maps["podwire_ct4"].items()}
