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
ENDPOINTS, SLOTS, POLICIES = (
    name[:_NAME_LENGTH] for name in ("podwire_endpoints4", "podwire_slots", "podwire_policies")
)


class State(NamedTuple):
    """What an endpoint is judged by."""

    policy: int
    revision: int
    """Of its slot: what was decided under another one is judged again."""


class NodeMaps:
    """The maps of one node."""

    def __init__(self, endpoints: int, slots: int, policies: int) -> None:
        """Takes their ids. Raises BpfError."""
        self._endpoints, self._slots = Map.by_id(endpoints), Map.by_id(slots)
        self._policies = Map.by_id(policies)
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

    def ports(self, address: str) -> set[int]:
        """Ports that the entries of an endpoint's policy begin with. Raises KeyError without a policy."""
        number = self._policies.get(self.state(address).policy)
        if not number:
            raise KeyError(address)
        with Map.by_id(number) as entries:
            return {int.from_bytes(key[-2:], "big") for key, _ in entries.raw_items()}

    def close(self) -> None:
        for each in (self._endpoints, self._slots, self._policies):
            each.close()


def find(nodes: Mapping[str, str]) -> dict[str, NodeMaps]:
    """The maps of nodes, whose names and addresses are given. Raises RuntimeError when they are not here."""
    found: dict[str, NodeMaps] = {}
    for numbers in sorted(_together(_shown("map"), _shown("prog"))):
        maps = NodeMaps(*numbers)
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


def _together(
    maps: Iterable[Mapping[str, Any]], programs: Iterable[Mapping[str, Any]]
) -> set[tuple[int, int, int]]:
    """Ids of maps of endpoints, slots and policies that one program uses."""
    names = {item["id"]: item.get("name", "") for item in maps}
    found = set()
    for program in programs:
        used = {names.get(number): number for number in program.get("map_ids", [])}
        if {ENDPOINTS, SLOTS, POLICIES} <= used.keys():
            found.add((used[ENDPOINTS], used[SLOTS], used[POLICIES]))
    return found


def _shown(kind: str) -> list[dict[str, Any]]:
    done = subprocess.run(["bpftool", "-j", kind, "show"], check=True, capture_output=True, text=True)
    shown = json.loads(done.stdout)
    return shown if isinstance(shown, list) else []
