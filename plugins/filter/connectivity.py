# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters by which the role podwire.ebpf.connectivity puts the nodes' rows together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils import connectivity_report as report


def connectivity_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of module podwire.ebpf.connectivity as text with columns."""
    return report.table(rows)


def connectivity_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about the rows: that all are as expected, or which are not, and why."""
    return report.verdict(rows)


def columns(lines: Sequence[Sequence[Any]]) -> str:
    """Lists of equally many cells as lines of text, their cells one below the other."""
    return report.columns([[str(cell) for cell in line] for line in lines])


def wrong_rows(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that are not as expected."""
    return report.mismatches(rows)


def with_reasons(
    rows: Sequence[Mapping[str, Any]], told: Iterable[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """The rows with the reasons that nodes tell, each by the index of its row. What a row has stays."""
    found: dict[str, str] = {}
    for reasons in told:
        found.update({number: text for number, text in reasons.items() if text})
    return [
        {**row, "reason": row.get("reason") or found.get(str(number), "")} for number, row in enumerate(rows)
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "columns": columns,
            "connectivity_table": connectivity_table,
            "connectivity_verdict": connectivity_verdict,
            "with_reasons": with_reasons,
            "wrong_rows": wrong_rows,
        }
