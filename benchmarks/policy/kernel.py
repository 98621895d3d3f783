"""What the kernel holds for the endpoints of a lab's nodes: they share one kernel, so that a map of any node
can be read from here, without its agent."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from podwire.agent.tables import EndpointsTable
from podwire.bpf import Map

_NAME_LENGTH = 15
ENDPOINTS, SLOTS = "podwire_endpoints4"[:_NAME_LENGTH], "podwire_slots"


class State(NamedTuple):
    """What an endpoint is judged by."""

    policy: int
    revision: int
    """Of its slot: what was decided under another one is judged again."""


class NodeMaps:
    """The maps of one node."""

    def __init__(self, endpoints: int, slots: int) -> None:
        """``endpoints`` and ``slots``: their ids. Raises BpfError."""
        self._endpoints, self._slots = Map.by_id(endpoints), Map.by_id(slots)
        self._table = EndpointsTable(lambda: self._endpoints)

    def has(self, address: str) -> bool:
        return self._endpoints.get(self._table.encode_key(address)) is not None

    def state(self, address: str) -> State:
        """Raises KeyError when the address is none of this node's."""
        value = self._endpoints.get(self._table.encode_key(address))
        if value is None:
            raise KeyError(address)
        endpoint = self._table.decode(value)
        return State(endpoint.policy, self._slots.get(endpoint.slot)["revision"])  # type: ignore[index]

    def close(self) -> None:
        self._endpoints.close()
        self._slots.close()


def find(nodes: Mapping[str, str]) -> dict[str, NodeMaps]:
    """The maps of nodes, whose names and addresses are given. Raises RuntimeError when they are not here."""
    found: dict[str, NodeMaps] = {}
    for endpoints, slots in sorted(_pairs(_shown("map"), _shown("prog"))):
        maps = NodeMaps(endpoints, slots)
        owner = [name for name, address in nodes.items() if maps.has(address)]
        if len(owner) == 1 and owner[0] not in found:
            found[owner[0]] = maps
        else:
            maps.close()
    missing = nodes.keys() - found.keys()
    if missing:
        raise RuntimeError(
            f"the maps of {', '.join(sorted(missing))} are not in this machine's kernel: run this as root on "
            f"the machine of the lab"
        )
    return found


def _pairs(maps: Iterable[Mapping[str, Any]], programs: Iterable[Mapping[str, Any]]) -> set[tuple[int, int]]:
    """Ids of maps of endpoints, and of slots, that are used together."""
    names = {item["id"]: item.get("name", "") for item in maps}
    pairs = set()
    for program in programs:
        used = {names.get(number): number for number in program.get("map_ids", [])}
        if ENDPOINTS in used and SLOTS in used:
            pairs.add((used[ENDPOINTS], used[SLOTS]))
    return pairs


def _shown(kind: str) -> list[dict[str, Any]]:
    done = subprocess.run(["bpftool", "-j", kind, "show"], check=True, capture_output=True, text=True)
    shown = json.loads(done.stdout)
    return shown if isinstance(shown, list) else []
