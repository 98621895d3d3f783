"""Identities of addresses that are no endpoints of this node, merged with how they are reached. Pure.

An entry of the ipcache says both, and the datapath finds only the longest. So a prefix that is there for its
identity repeats the routing of the longest prefix around it, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from podwire.agent.identity_cidr import EVERYWHERE, number_of
from podwire.agent.model import ClusterState
from podwire.policy.identity import WORLD


@dataclass(frozen=True, slots=True)
class Ipcache4:
    """Value of podwire_ipcache4: what is known of a prefix."""

    identity: int
    """Security identity of the prefix."""
    next_hop: str | None = None
    cluster: bool = False
    """Never masqueraded."""
    service: bool = False
    """The stack translates."""
    node: bool = False
    """A node's own address."""
    local: bool = False
    """This node's podCIDR: an address in it without an endpoint is stale."""

    @property
    def routing(self) -> Ipcache4:
        """What it says of the way, whoever is there."""
        return replace(self, identity=0)


class Covering:
    """Finds the longest prefix of an ipcache around another one, by the numbers of its addresses."""

    def __init__(self, entries: Mapping[str, Ipcache4]) -> None:
        self._by_length: dict[int, dict[int, Ipcache4]] = {}
        for key, entry in entries.items():
            address, _, length = key.partition("/")
            self._by_length.setdefault(int(length), {})[int(IPv4Address(address))] = entry
        self._lengths = sorted(self._by_length, reverse=True)

    def find(self, address: int, longest: int = 32) -> Ipcache4 | None:
        """The entry of the longest prefix, of at most ``longest`` bits, that holds ``address``."""
        for length in self._lengths:
            if length <= longest:
                entry = self._by_length[length].get(address >> (32 - length) << (32 - length))
                if entry is not None:
                    return entry
        return None


NOWHERE = Ipcache4(WORLD)
"""What the datapath takes an address for that has no entry."""


def add_identities(state: ClusterState, entries: dict[str, Ipcache4]) -> None:
    """Complete ``entries`` (routing: ranges, podCIDRs and nodes' addresses) with who is there."""
    routing = Covering(entries)
    _add_prefixes(state.cidrs or {}, routing, entries)
    _add_endpoints(state, routing, entries)


def _add_prefixes(
    numbers: Mapping[IPv4Network, int], routing: Covering, entries: dict[str, Ipcache4]
) -> None:
    """Identities of prefixes outside the cluster. What is inside keeps its own: rules by CIDR mean no pods
    and no nodes, and an address of the pods' ranges that nobody is known to have may be a pod's soon."""
    if not numbers:
        return
    for key, entry in list(entries.items()):
        if entry.identity == WORLD:
            entries[key] = replace(entry, identity=number_of(numbers, IPv4Network(key)))
    for prefix, number in numbers.items():
        if prefix == EVERYWHERE or str(prefix) in entries:
            continue
        around = routing.find(int(prefix.network_address), prefix.prefixlen) or NOWHERE
        if around.identity == WORLD:
            entries[str(prefix)] = replace(around, identity=number)


def _add_endpoints(state: ClusterState, routing: Covering, entries: dict[str, Ipcache4]) -> None:
    """Endpoints of other nodes. An address of this node's own range, or of a node, is not theirs."""
    made: dict[tuple[Ipcache4, int], Ipcache4] = {}
    for address, identity in (state.remote or {}).items():
        around = routing.find(int(IPv4Address(address)))
        if around is None or around.local or around.node or around.service:
            continue
        entry = made.get((around, identity))
        if entry is None:
            entry = made[(around, identity)] = replace(around, identity=identity)
        entries[f"{address}/32"] = entry
