# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Judge what was tried, find the datapath's own reason for it, and lay it out as a table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

POLICY_REASONS = {133, 181}
"""Drop reasons that are a policy's: nothing allows it; a deny rule."""
CLOCK_SLACK = 3.0
"""Seconds by which the clocks of two nodes may differ."""


def reason_in(row: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> str:
    """What the datapath did with a row's packets, from drop and verdict events; "" when none tells.

    Of an answer only a policy's verdict tells, and only where a policy judges at all.
    """
    mine = [event for event in events if _is_about(event, row)]
    if row["observed"] == "allowed":
        mine = [event for event in mine if event.get("verdict") in ("allowed", "audited")]
    else:
        # A drop is the last word on a packet; a verdict says the same in advance.
        mine = [event for event in mine if "verdict" not in event] or [
            event for event in mine if event.get("verdict") == "denied"
        ]
    return describe(mine[-1]) if mine else ""


def wants_reason(row: Mapping[str, Any]) -> bool:
    """Whether to ask the datapath about a row: silence proves a denial only together with a drop."""
    return not is_right(row) or row["observed"] == "denied"


def _is_about(event: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    if not row["began"] - CLOCK_SLACK <= event["time"] <= row["ended"] + CLOCK_SLACK:
        return False
    if event.get("protocol") != row["protocol"] or event.get("source") != row["source_address"]:
        return False
    # A client's port names the connection, also where a service's address was translated meanwhile.
    if row["source_port"]:
        return bool(event.get("source_port") == row["source_port"])
    return event.get("destination") == row["address"] or row["protocol"] != "ICMP"


def describe(event: Mapping[str, Any]) -> str:
    """An event as a sentence."""
    if event.get("verdict") in ("allowed", "audited"):
        parts = [str(event["verdict"])]
    else:
        parts = [f"{str(event.get('reason_name') or 'dropped').replace('_', ' ')} ({event.get('reason')})"]
    if event.get("direction"):
        parts.append(f"at {event['direction']}")
    if event.get("source_labels") or event.get("destination_labels"):
        parts.append(f"from {_who(event, 'source')} to {_who(event, 'destination')}")
    if event.get("rule"):
        parts.append(f"by {event['rule']}")
    elif event.get("reason") in POLICY_REASONS:
        parts.append("no rule allows it")
    return ", ".join(parts)


def _who(event: Mapping[str, Any], side: str) -> str:
    labels = " ".join(event.get(f"{side}_labels") or [])
    return f"identity {event.get(f'{side}_identity')} [{labels}]"


def is_right(row: Mapping[str, Any]) -> bool:
    return bool(row["observed"] == row["expect"])


def mismatches(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if not is_right(row)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text with columns, each with its reason where there is one."""
    head = ("", "from", "to", "port", "expected", "observed", "why")
    return columns([head, *(_cells(row) for row in rows)])


def columns(cells: Sequence[Sequence[str]]) -> str:
    """Lines of equally many cells, one below the other."""
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    port = f"{row['port']}/{row['protocol']}" if row.get("port") else str(row["protocol"])
    why = row.get("reason") or row.get("detail") or ""
    mark = "ok" if is_right(row) else "FAIL"
    where = row["to"] if row["to"] == row["address"] else f"{row['to']} ({row['address']})"
    return mark, str(row["from"]), where, port, str(row["expect"]), str(row["observed"]), str(why)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence about all rows."""
    wrong = mismatches(rows)
    if not wrong:
        return f"all {len(rows)} connections are as expected"
    named = "; ".join(_sentence(row) for row in wrong[:20])
    return f"{len(wrong)} of {len(rows)} connections are not as expected: {named}"


def _sentence(row: Mapping[str, Any]) -> str:
    port = f"{row['protocol']} {row['port']}" if row["port"] else row["protocol"]
    why = row.get("reason") or row.get("detail") or "no reason known"
    return f"{row['from']} to {row['to']} {port}: {row['observed']}, expected {row['expect']} ({why})"
