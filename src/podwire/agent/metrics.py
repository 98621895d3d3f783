"""Counters of the datapath, summed over CPUs and named."""

from __future__ import annotations

from typing import Any

from podwire.agent.events import EventDecoder
from podwire.datapath import Datapath


def read_metrics(datapath: Datapath, names: EventDecoder) -> dict[str, Any]:
    """Drops by reason and direction, forwarded packets by kind of delivery. Raises DatapathError or
    BpfError."""
    drops = [
        {
            "reason": key["reason"],
            "reason_name": names.reasons.get(key["reason"], str(key["reason"])),
            "direction": names.directions.get(key["direction"], str(key["direction"])),
            **summed(values),
        }
        for key, values in datapath.map("podwire_metrics").items()
    ]
    forwards = {
        names.forwards.get(kind, str(kind)): summed(values)
        for kind, values in datapath.map("podwire_forwards").items()
        if kind in names.forwards
    }
    return {
        "drops": sorted(drops, key=lambda drop: (drop["reason"], drop["direction"])),
        "forwarded": forwards,
    }


def summed(values: list[dict[str, int]]) -> dict[str, int]:
    """One counter out of the CPUs' own ones."""
    return {
        "packets": sum(value["packets"] for value in values),
        "bytes": sum(value["bytes"] for value in values),
    }
