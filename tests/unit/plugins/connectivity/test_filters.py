"""Filters that put the rows of several nodes together."""

from __future__ import annotations

from ansible_collections.podwire.ebpf.plugins.filter.connectivity import FilterModule

filters = FilterModule().filters()


def test_reasons_of_any_node_stand_beside_their_row():
    rows = [{"reason": ""}, {"reason": "known"}, {"reason": ""}]
    told = [{}, {"0": "from one node", "1": "another"}, {"0": ""}]
    found = [row["reason"] for row in filters["with_reasons"](rows, told)]
    assert found == ["from one node", "known", ""]


def test_columns_stand_one_below_the_other():
    assert filters["columns"]([["", "step"], ["FAIL", 12], ["ok", "x"]]) == "      step\nFAIL  12\nok    x"


def test_wrong_rows():
    rows = [{"expect": "denied", "observed": "denied"}, {"expect": "denied", "observed": "allowed"}]
    assert filters["wrong_rows"](rows) == rows[1:]
