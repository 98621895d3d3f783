"""What is written into the tables of services can be read back as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from podwire.agent import service_tables as tables
from podwire.service.model import Backend, BackendList, Flags, Frontend, FrontendKey, Protocol

ADDRESSES = st.ip_addresses(v=4).map(str)
PORTS = st.integers(0, 65535)
NUMBERS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(0, 2**16 - 1)


@given(ADDRESSES)
def test_addresses(address: str) -> None:
    assert tables.text(tables.number(address)) == address


@given(st.builds(FrontendKey, ADDRESSES, PORTS, st.sampled_from(Protocol)))
def test_frontend_keys(key: FrontendKey) -> None:
    assert tables.frontend_key_of(tables.frontend_key(key)) == key


@given(
    st.builds(Frontend, NUMBERS, NUMBERS, COUNTS, NUMBERS, COUNTS, NUMBERS, st.integers(0, 511).map(Flags))
)
def test_frontends(value: Frontend) -> None:
    assert tables.frontend_of(tables.frontend_value(value)) == value


@given(NUMBERS, st.builds(Backend, ADDRESSES, PORTS))
def test_affinity_members(service: int, backend: Backend) -> None:
    assert tables.member_of(tables.member_key((service, backend))) == (service, backend)


@given(NUMBERS, st.ip_addresses(v=4), st.integers(0, 32))
def test_source_ranges(service: int, address: object, length: int) -> None:
    network = f"{address}/{length}"
    key = tables.range_key((service, network))
    assert key["prefix_length"] == 32 + length  # the number of the service is matched as a whole
    assert tables.range_of(key) == (service, network)


def test_lists_keep_their_order() -> None:
    backends = (Backend("10.1.0.2", 80), Backend("10.1.0.1", 81))
    entries = tables.list_entries(7, backends)
    assert [key for key, _ in entries] == [{"list": 7, "index": 0}, {"list": 7, "index": 1}]
    assert tuple((value["address"], value["port"]) for _, value in entries) == tables.raw(
        BackendList(backends)
    )
