"""Tables of the reconciler over maps that may not be there."""

from __future__ import annotations

from podwire.agent.tables import MasqueradeTable
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
