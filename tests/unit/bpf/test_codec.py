"""Values to bytes and back, by type information."""

from __future__ import annotations

import pytest

from podwire.bpf.btf import Btf
from podwire.bpf.codec import codec_for
from podwire.bpf.errors import LayoutError
from tests.unit.bpf.build_btf import BtfWriter


class Types:
    def __init__(self):
        self.writer = writer = BtfWriter()
        self.u8 = writer.typedef("__u8", writer.integer("unsigned char", 1))
        self.u16 = writer.typedef("__u16", writer.integer("unsigned short", 2))
        self.u32 = writer.typedef("__u32", writer.integer("unsigned int", 4))
        self.s32 = writer.integer("int", 4, encoding=1)
        self.u64 = writer.integer("unsigned long long", 8)
        self.flag = writer.integer("_Bool", 1, encoding=4)
        self.be16 = writer.typedef("__be16", self.u16)
        self.be32 = writer.typedef("__be32", self.u32)
        self.mac = writer.array(self.u8, 6)

    def codec(self, type_id):
        return codec_for(Btf(self.writer.finish()), type_id)


@pytest.fixture
def types():
    return Types()


@pytest.fixture
def endpoint(types):
    """struct { __be32 address; __be16 port; u16 gap; u32 ifindex; u8 mac[6]; bool up; u8 pad; }"""
    writer = types.writer
    return types.codec(
        writer.struct(
            "endpoint", 20,
            ("address", types.be32, 0), ("port", types.be16, 32), ("ifindex", types.u32, 64),
            ("mac", types.mac, 96), ("up", types.flag, 144), ("pad", types.u8, 152),
        )
    )  # fmt: skip


def test_network_order_fields_are_shown_in_host_order(endpoint):
    data = endpoint.encode({"address": 0x0A000001, "port": 80, "ifindex": 7, "mac": b"\x02abcde", "up": True})
    assert data == b"\x0a\0\0\x01" + b"\0\x50" + b"\0\0" + b"\x07\0\0\0" + b"\x02abcde" + b"\x01" + b"\0"
    assert endpoint.decode(data) == {
        "address": 0x0A000001, "port": 80, "ifindex": 7, "mac": b"\x02abcde", "up": True, "pad": 0,
    }  # fmt: skip


def test_fields_left_out_are_zero_and_padding_too(endpoint):
    assert endpoint.encode({}) == b"\0" * 20


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param({"adress": 1}, "no field 'adress' .it has address, port", id="typing-mistake"),
        pytest.param({"port": 70000}, r"endpoint.port: 70000 does not fit", id="too-large"),
        pytest.param({"ifindex": -1}, r"endpoint.ifindex: -1 does not fit", id="negative"),
        pytest.param({"mac": b"short"}, r"endpoint.mac: expected 6 bytes", id="array-length"),
        pytest.param({"mac": "02:00:00:00:00:01"}, "expected 6 bytes", id="text-for-bytes"),
        pytest.param({"port": None}, "does not fit", id="none"),
        pytest.param(7, "expected a dict", id="number-for-struct"),
    ],
)
def test_what_does_not_fit_names_the_field(endpoint, value, message):
    with pytest.raises(LayoutError, match=message):
        endpoint.encode(value)


def test_bytes_of_the_right_length_are_taken_as_they_are(endpoint):
    assert endpoint.encode(bytes(range(20))) == bytes(range(20))
    with pytest.raises(LayoutError, match="expected 20 bytes"):
        endpoint.encode(b"x")


def test_short_data_is_refused(endpoint):
    with pytest.raises(LayoutError, match="3 bytes given, the type has 20"):
        endpoint.decode(b"abc")


def test_scalars_and_signed_numbers(types):
    assert types.codec(types.s32).decode(types.codec(types.s32).encode(-5)) == -5
    assert types.codec(types.be16).encode(80) == b"\0\x50"
    assert types.codec(types.u64).encode(1) == b"\x01" + b"\0" * 7


def test_arrays_of_larger_elements_are_lists(types):
    words = types.codec(types.writer.array(types.be32, 2))
    assert words.encode([1, 2]) == b"\0\0\0\x01\0\0\0\x02"
    assert words.decode(b"\0\0\0\x01\0\0\0\x02") == [1, 2]
    with pytest.raises(LayoutError, match="list of 2 values"):
        words.encode([1])


def test_nested_structs_are_nested_and_anonymous_ones_are_merged(types):
    writer = types.writer
    inner = writer.struct("inner", 4, ("low", types.u16, 0), ("high", types.u16, 16))
    nameless = writer.struct("", 4, ("left", types.u16, 0), ("right", types.u16, 16))
    codec = types.codec(writer.struct("outer", 8, ("pair", inner, 0), ("", nameless, 32)))
    value = {"pair": {"low": 1, "high": 2}, "left": 3, "right": 4}
    assert codec.decode(codec.encode(value)) == value
    assert codec.fields == ("pair", "left", "right")


def test_members_of_a_union_share_bytes_and_must_agree(types):
    writer = types.writer
    address = writer.union("", 16, ("v4", types.be32, 0), ("v6", writer.array(types.be32, 4), 0))
    codec = types.codec(writer.struct("peer", 16, ("", address, 0)))
    data = codec.encode({"v4": 5})
    assert codec.decode(data) == {"v4": 5, "v6": [5, 0, 0, 0]}
    assert codec.encode(codec.decode(data)) == data
    with pytest.raises(LayoutError, match="contradicts another member"):
        codec.encode({"v4": 6, "v6": [5, 0, 0, 0]})


def test_bit_fields_are_refused_when_the_converter_is_made(types):
    bits = types.writer.struct("bits", 4, ("one", types.u32, 3 << 24), bits=True)
    with pytest.raises(LayoutError, match="bit fields"):
        types.codec(bits)
