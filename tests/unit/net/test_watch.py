"""Which netlink messages make the agent look at the host again."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.net.watch import changes


def message(kind: int, body: bytes) -> bytes:
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, 0, 0, 0) + body + b"\0" * (-length % 4)


def link(index: int) -> bytes:
    return message(16, struct.pack("=BxHiII", 0, 1, index, 0, 0))


def address(index: int) -> bytes:
    return message(21, struct.pack("=BBBBI", 2, 24, 0, 0, index))


def route(protocol: int) -> bytes:
    return message(24, struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, protocol, 0, 1, 0))


def is_node_device(index: int) -> bool:
    return index == 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(link(2), True, id="the node's device"),
        pytest.param(link(9), False, id="a pod's device"),
        pytest.param(address(2), True, id="the node's address"),
        pytest.param(address(9), True, id="an address on a new device"),
        pytest.param(route(112), False, id="our own route"),
        pytest.param(route(2), False, id="a route that came with an address"),
        pytest.param(route(4), True, id="an administrator's route"),
        pytest.param(link(9) + route(112) + route(16), True, id="the last of several"),
        pytest.param(b"", False, id="nothing"),
        pytest.param(link(2)[:-9], False, id="cut short"),
        pytest.param(struct.pack("=IHHII", 0, 16, 0, 0, 0), False, id="length zero"),
    ],
)
def test_only_changes_of_the_node_itself_matter(data: bytes, expected: bool) -> None:
    assert changes(data, is_node_device) is expected


@given(st.binary(max_size=100))
def test_no_message_breaks_the_reader(data: bytes) -> None:
    changes(data, is_node_device)
