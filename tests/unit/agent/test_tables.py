"""Tables of the reconciler over maps that may not be there."""

from __future__ import annotations

import pytest

from podwire.agent.desired import Endpoint4
from podwire.agent.tables import EndpointsTable, MasqueradeTable
from podwire.bpf import Map
from podwire.datapath import NotInstalled


def no_map() -> Map:
    raise NotInstalled("there is no map podwire_masquerade4", "apply the datapath")


def test_programs_of_an_older_version_serve_pods_all_the_same() -> None:
    table = MasqueradeTable(no_map)
    assert table.read() == {}
    assert "podwire_masquerade4" in table.upsert({"3": "198.51.100.1"})["3"]


def test_masquerade_entries_survive_the_map() -> None:
    table = MasqueradeTable(no_map)
    assert table.decode_key(table.encode_key("3")) == "3"
    assert table.decode(table.encode("198.51.100.1")) == "198.51.100.1"


@pytest.mark.parametrize(
    "value",
    [
        Endpoint4(0, 0, "00:00:00:00:00:00", host=True, identity=1),
        Endpoint4(7, 3, "02:00:00:00:00:01", identity=4711),
        Endpoint4(7, 3, "02:00:00:00:00:01", identity=5, policy=1),
        Endpoint4(7, 3, "02:00:00:00:00:01", identity=4711, policy=9, audit=True),
    ],
)
def test_endpoints_survive_the_map(value: Endpoint4) -> None:
    table = EndpointsTable(no_map)
    assert table.decode(table.encode(value)) == value


def test_programs_that_know_no_policies_are_asked_for_none() -> None:
    assert "policy" not in EndpointsTable(no_map).encode(Endpoint4(7, 3, "02:00:00:00:00:01", identity=4711))
