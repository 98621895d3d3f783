"""The datapath's policy maps: how their entries are written. Pure.

A policy map is an inner map of ``podwire_policies``, made by the agent as a trie whose keys and values are
structs of bpf/lib/policy_map.h. They are packed by hand: ten thousand entries take milliseconds this way."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from podwire.policy.entries import runs_of
from podwire.policy.identity import UNKNOWN
from podwire.policy.model import (
    PROTOCOL_ANY,
    BlockKey,
    Compiled,
    Direction,
    Identity,
    MapKey,
    MapValue,
)

POLICIES = "podwire_policies"
OPEN, CLOSED = 0, 1
"""Policy numbers with a meaning of their own: no policy at all, and a policy that allows nothing."""
FIRST_NUMBER = 2
KEY_SIZE, VALUE_SIZE = 12, 8
LARGEST = 65536
"""Entries that one policy map may have."""
NO_PREALLOC = 1
"""BPF_F_NO_PREALLOC, which tries must have."""

FLAG_DENY, FLAG_BLOCK, FLAG_FINAL = 1, 2, 4
"""FINAL: the programs need not ask what holds for any peer."""
_IDENTITY_BITS, _DIRECTION_BITS, _PROTOCOL_BITS = 32, 8, 8
_BLOCK_IDENTITY = 0xFFFFFF00
_HEAD = struct.Struct("=II")
_TAIL = struct.Struct(">BBH")
_VALUE_HEAD = struct.Struct(">H")
_VALUE_TAIL = struct.Struct("=BBI")

Contents = dict[bytes, bytes]
"""A policy map, as the kernel has it."""


class Entry(NamedTuple):
    """An entry of a policy map that decides."""

    key: MapKey
    value: MapValue


class Block(NamedTuple):
    """An entry of a policy map that gives a range of addresses a class."""

    key: BlockKey
    identity: Identity


def contents(compiled: Compiled) -> Contents:
    """What the kernel must have for a policy."""
    runs = list(runs_of(compiled.entries))
    outranking = {
        direction
        for direction, identities, values in runs
        for _, value in values
        if value.proxy_port or (value.deny and UNKNOWN in identities)
    }
    found: Contents = {}
    for direction, identities, values in runs:
        for ports, value in values:
            # One value for all of them, and keys that differ in the identity alone. UNKNOWN is everybody.
            sample = MapKey(direction, UNKNOWN, *ports)
            bits, tail = prefix_bits(sample), encode_key(sample)[_HEAD.size :]
            final = not value.deny and direction not in outranking
            encoded = encode_value(sample, value, final=final)
            found.update((_HEAD.pack(bits, identity) + tail, encoded) for identity in identities)
            if final and UNKNOWN in identities:
                found[encode_key(sample)] = encode_value(sample, value)
    for key, identity in compiled.blocks.items():
        found[encode_block(key)] = _value(0, FLAG_BLOCK, block_bits(key), identity)
    return found


def is_open(compiled: Compiled) -> bool:
    """Does this policy let everything pass? Then no packet needs to be judged by it."""
    return not compiled.enforced and not any(value.deny for value in compiled.entries.values())


def size_for(entries: int) -> int:
    """How large a map to make for so many entries: it is never written to again."""
    return max(1, entries)


TOO_LARGE = (
    f"its policy comes to more than {LARGEST} entries, which is what a policy map holds: select fewer peers, "
    "or write ranges of ports and wider CIDRs"
)
"""Why a policy cannot be enforced, and the way out. Always the same, lest an endpoint's Events pile up."""


def prefix_bits(key: MapKey) -> int:
    """How many bits of the key must agree."""
    bits = _IDENTITY_BITS + _DIRECTION_BITS
    if key.protocol != PROTOCOL_ANY:
        bits += _PROTOCOL_BITS + key.port_prefix
    return bits


def block_bits(key: BlockKey) -> int:
    return _IDENTITY_BITS + key.prefix.prefixlen


def encode_key(key: MapKey) -> bytes:
    head = _HEAD.pack(prefix_bits(key), key.identity)
    return head + _TAIL.pack(key.direction, key.protocol, key.port)


def encode_block(key: BlockKey) -> bytes:
    return _HEAD.pack(block_bits(key), _BLOCK_IDENTITY | key.direction) + key.prefix.network_address.packed


def encode_value(key: MapKey, value: MapValue, *, final: bool = False) -> bytes:
    """``final``: no entry for any peer in the same direction can outrank this one."""
    flags = FLAG_DENY * value.deny | FLAG_FINAL * final
    return _value(value.proxy_port, flags, prefix_bits(key), value.rule)


def _value(proxy_port: int, flags: int, bits: int, rule: int) -> bytes:
    return _VALUE_HEAD.pack(proxy_port) + _VALUE_TAIL.pack(flags, bits, rule)


def decode(raw: Contents) -> Iterator[Entry | Block]:
    """Undoes ``contents``, but for the reasons. What no agent wrote is left out."""
    for key, value in raw.items():
        bits, identity = _HEAD.unpack_from(key)
        flags, _, rule = _VALUE_TAIL.unpack_from(value, 2)
        if identity & _BLOCK_IDENTITY == _BLOCK_IDENTITY:
            if flags & FLAG_BLOCK and (identity & 0xFF) in (Direction.INGRESS, Direction.EGRESS):
                prefix = IPv4Network((IPv4Address(key[8:12]), bits - _IDENTITY_BITS), strict=False)
                yield Block(BlockKey(Direction(identity & 0xFF), prefix), rule)
            continue
        direction, protocol, port = _TAIL.unpack_from(key, 8)
        if direction not in (Direction.INGRESS, Direction.EGRESS):
            continue
        port_prefix = max(0, bits - _IDENTITY_BITS - _DIRECTION_BITS - _PROTOCOL_BITS)
        (proxy_port,) = _VALUE_HEAD.unpack_from(value)
        yield Entry(
            MapKey(Direction(direction), identity, protocol, port, port_prefix),
            MapValue(bool(flags & FLAG_DENY), rule, proxy_port),
        )
