"""Entries of policy maps: how they lie in memory, and back."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.agent.policy_tables import (
    FLAG_FINAL,
    KEY_SIZE,
    VALUE_SIZE,
    Block,
    Entry,
    contents,
    decode,
    encode_block,
    encode_key,
    encode_value,
    is_open,
)
from podwire.policy.decide import match_of
from podwire.policy.model import BlockKey, Compiled, Direction, MapKey, MapValue, Match

IN, OUT = Direction.INGRESS, Direction.EGRESS


@pytest.mark.parametrize(
    ("key", "bits", "match"),
    [
        (MapKey(IN, 0), 40, Match.ALL),
        (MapKey(IN, 300), 40, Match.L3_ONLY),
        (MapKey(OUT, 0, 6), 48, Match.PROTO_ONLY),
        (MapKey(OUT, 300, 1), 48, Match.L3_PROTO),
        (MapKey(IN, 0, 17, 53, 16), 64, Match.L4_ONLY),
        (MapKey(IN, 300, 6, 80, 12), 60, Match.L3_L4),
    ],
)
def test_the_more_a_key_names_the_more_bits_are_compared(key: MapKey, bits: int, match: Match) -> None:
    raw = encode_key(key)
    assert len(raw) == KEY_SIZE
    assert int.from_bytes(raw[:4], "little") == bits
    assert match_of(key) is match
    assert encode_value(key, MapValue())[3] == bits  # a value knows its key's


def test_ports_are_in_the_network_s_order() -> None:
    assert encode_key(MapKey(OUT, 0x01020304, 6, 80, 16))[4:] == b"\x04\x03\x02\x01\x01\x06\x00\x50"
    value = encode_value(MapKey(OUT, 1), MapValue(deny=True, rule=7, proxy_port=0x1234))
    assert value == b"\x12\x34\x01\x28\x07\x00\x00\x00"
    assert len(value) == VALUE_SIZE


@pytest.mark.parametrize(
    ("others", "final"),
    [
        ({}, True),
        ({MapKey(IN, 0, 6): MapValue()}, True),
        ({MapKey(IN, 301): MapValue(deny=True)}, True),
        ({MapKey(OUT, 0): MapValue(deny=True)}, True),
        ({MapKey(IN, 0, 17): MapValue(deny=True)}, False),
        ({MapKey(IN, 0, 6): MapValue(proxy_port=1)}, False),
    ],
)
def test_an_entry_is_final_unless_one_for_any_peer_could_outrank_it(
    others: dict[MapKey, MapValue], final: bool
) -> None:
    """The programs then spare themselves the second lookup."""
    entries = {MapKey(IN, 300): MapValue(), MapKey(IN, 302): MapValue(deny=True), **others}
    raw = contents(Compiled(frozenset(), entries, {}))
    assert bool(raw[encode_key(MapKey(IN, 300))][2] & FLAG_FINAL) is final
    for key, value in entries.items():
        if not key.identity or value.deny:
            assert not raw[encode_key(key)][2] & FLAG_FINAL


def test_a_block_lies_where_no_identity_does() -> None:
    raw = encode_block(BlockKey(OUT, IPv4Network("10.1.0.0/16")))
    assert raw == (48).to_bytes(4, "little") + b"\x01\xff\xff\xff" + bytes([10, 1, 0, 0])


keys = st.builds(
    MapKey,
    st.sampled_from(Direction),
    st.integers(0, 0x03FFFFFF),
    st.integers(1, 255),
    st.integers(0, 65535),
    st.integers(0, 16),
)
values = st.builds(MapValue, st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 65535))
prefixes = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
blocks = st.dictionaries(st.builds(BlockKey, st.sampled_from(Direction), prefixes), st.integers(1, 2**32 - 1))


@given(st.dictionaries(keys, values), blocks)
def test_what_is_written_is_read(entries: dict[MapKey, MapValue], ranges: dict[BlockKey, int]) -> None:
    raw = contents(Compiled(frozenset(), entries, ranges))
    found = list(decode(raw))
    assert {item.key: item.value for item in found if isinstance(item, Entry)} == entries
    assert {item.key: item.identity for item in found if isinstance(item, Block)} == ranges


def test_what_nobody_of_ours_wrote_is_left_out() -> None:
    strange = encode_key(MapKey(IN, 5))[:8] + b"\x07\0\0\0"
    other = encode_block(BlockKey(IN, IPv4Network("10.0.0.0/8")))
    assert not list(decode({strange: bytes(8), other: bytes(8)}))


def test_only_a_policy_that_refuses_nothing_is_open() -> None:
    everything = {MapKey(IN, 0): MapValue(), MapKey(OUT, 0): MapValue()}
    assert is_open(Compiled(frozenset(), everything, {}))
    assert not is_open(Compiled(frozenset({IN}), everything, {}))
    assert not is_open(Compiled(frozenset(), {**everything, MapKey(IN, 7): MapValue(deny=True)}, {}))
