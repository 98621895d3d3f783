"""ICMP echo packets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.net.icmp import checksum, echo_request, parse_reply

IPV4 = bytes.fromhex("45000000000000004001000000000000000000ff")


def test_checksum_of_a_known_packet() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D  # the example of RFC 1071


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_request_sums_to_zero_and_its_reply_is_recognised(ident: int, sequence: int) -> None:
    request = echo_request(ident, sequence)
    assert checksum(request) == 0
    reply = b"\0" + request[1:]
    assert parse_reply(IPV4 + reply) == (ident, sequence)
    assert parse_reply(bytes([0x46]) + IPV4[1:] + b"\0\0\0\0" + reply) == (
        ident,
        sequence,
    )  # with an IP option


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(IPV4, id="header alone"),
        pytest.param(IPV4 + echo_request(1, 1), id="a request"),
        pytest.param(IPV4 + struct.pack("!BBHHH", 0, 1, 0, 1, 1), id="a code"),
        pytest.param(b"\x41" + IPV4[1:] + b"\0" * 8, id="impossible header length"),
    ],
)
def test_other_packets_are_no_replies(packet: bytes) -> None:
    assert parse_reply(packet) is None


@given(st.binary(max_size=64))
def test_no_packet_breaks_the_parser(packet: bytes) -> None:
    parse_reply(packet)
