"""Reading type information."""

from __future__ import annotations

import pytest

from podwire.bpf.btf import Btf, Kind
from podwire.bpf.errors import LayoutError
from tests.unit.bpf.build_btf import BtfWriter


def test_types_are_found_by_name_and_kind():
    writer = BtfWriter()
    number = writer.integer("unsigned int", 4)
    writer.typedef("thing", number)
    wanted = writer.struct("thing", 4, ("field", number, 0))
    btf = Btf(writer.finish())
    assert btf.find("thing", Kind.STRUCT).id == wanted
    assert btf.find("nothing") is None
    assert len(btf) == 4  # with void


def test_typedefs_and_qualifiers_are_seen_through():
    writer = BtfWriter()
    number = writer.integer("unsigned int", 4)
    outer = writer.const(writer.typedef("__be32", writer.typedef("__u32", number)))
    found, names = Btf(writer.finish()).resolve(outer)
    assert (found.name, names) == ("unsigned int", ("__be32", "__u32"))


def test_a_cycle_of_typedefs_is_an_error_not_a_hang():
    writer = BtfWriter()
    writer.typedef("self", 1)
    with pytest.raises(LayoutError, match="nested too deep"):
        Btf(writer.finish()).resolve(1)


def test_variables_of_a_section_have_offset_and_type():
    writer = BtfWriter()
    number = writer.integer("unsigned int", 4)
    one, two = writer.variable("cfg_one", number), writer.variable("cfg_two", number)
    writer.section(".rodata", 8, (one, 0, 4), (two, 4, 4))
    btf = Btf(writer.finish())
    assert {name: entry.offset for name, entry in btf.variables(".rodata").items()} == {
        "cfg_one": 0,
        "cfg_two": 4,
    }
    assert btf.variables(".bss") == {}


def test_enumerators_are_found_by_name_also_negative_ones():
    writer = BtfWriter()
    writer.enum("verdict", PASS=0, DROP=-1)
    assert Btf(writer.finish()).enum_values() == {"PASS": 0, "DROP": -1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "shorter than its header", id="empty"),
        pytest.param(b"\x9f\xeb\x02" + b"\0" * 30, "version 2", id="version"),
        pytest.param(b"\xeb\x9f\x01" + b"\0" * 30, "bad magic", id="byte-order"),
    ],
)
def test_what_is_not_btf_is_refused(data, message):
    with pytest.raises(LayoutError, match=message):
        Btf(data)


def test_a_kind_from_the_future_is_named():
    writer = BtfWriter()
    writer._add("x", 31, 0)
    with pytest.raises(LayoutError, match="unknown kind 31"):
        Btf(writer.finish())
