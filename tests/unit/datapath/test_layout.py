"""When a pinned map can stay, and when not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from podwire.bpf import MapDeclaration, MapInfo
from podwire.bpf.codec import raw_codec
from podwire.datapath.layout import _mismatch, fitting

WANTED = MapDeclaration("m", 1, 4, 8, 64, 1, ("address",), ("ifindex", "slot"))
PINNED = MapInfo(1, 1, "m", 4, 8, 64, 1, 0, 0, 0)
FIELDS = (("address",), ("ifindex", "slot"))


def test_the_same_layout_stays():
    assert _mismatch(WANTED, 64, PINNED, *FIELDS) == ""


@pytest.mark.parametrize(
    ("change", "fields", "reason"),
    [
        ({"type": 9}, FIELDS, "type changes from lru_hash to hash"),
        ({"value_size": 16}, FIELDS, "layout changes from 4+16 to 4+8 bytes"),
        ({"max_entries": 32}, FIELDS, "size changes from 32 to 64 entries"),
        ({"flags": 0}, FIELDS, "flags change from 0x0 to 0x1"),
        ({}, (("address",), ("ifindex", "identity")), "layout changes: identity, slot"),
        ({}, (("address",), ("slot", "ifindex")), "layout changes: order of fields"),
    ],
)
def test_every_difference_has_its_reason(change, fields, reason):
    assert _mismatch(WANTED, 64, replace(PINNED, **change), *fields).startswith(reason)


def test_fields_that_are_gone_are_left_out():
    codec = replace(raw_codec(8), fields=("ifindex",))
    assert fitting({"ifindex": 1, "slot": 2}, codec) == {"ifindex": 1}
    assert fitting(5, codec) == 5
