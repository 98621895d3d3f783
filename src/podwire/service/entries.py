"""What one object has in the datapath's tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from podwire.service.compile import EXTERNAL, Compiled, CompiledPort
from podwire.service.lists import Lists
from podwire.service.model import (
    ANY_ADDRESS,
    BackendList,
    Flags,
    Frontend,
    FrontendKey,
    PortName,
    Problem,
    Protocol,
)


@dataclass(slots=True)
class Port:
    """What one service port has in the tables."""

    number: int
    compiled: CompiledPort
    cluster: int = 0
    """Lists, 0 when there are no backends."""
    local: int = 0
    no_room: int = 0
    """Backends that were left out because the table is full."""
    too_long: int = 0
    """Backends that were left out because one list cannot hold more."""


@dataclass(slots=True)
class Entry:
    """What one object has in the tables."""

    compiled: Compiled = field(default_factory=Compiled)
    ports: dict[PortName, Port] = field(default_factory=dict)
    health_check_port: int = 0
    problems: tuple[Problem, ...] = ()


def health_check_key(port: int) -> FrontendKey:
    """What a health-check node port is claimed by: no node port may be the same."""
    return FrontendKey(ANY_ADDRESS, port, Protocol.TCP)


def wanted_keys(compiled: Compiled) -> set[FrontendKey]:
    """Everything an object claims."""
    keys = {key for port in compiled.ports for key in port.frontends}
    if compiled.health_check_port:
        keys.add(health_check_key(compiled.health_check_port))
    return keys


def wanted_lists(port: CompiledPort) -> list[BackendList]:
    """The list for the whole cluster and the local one; one list when they are the same."""
    maglev = any(flags & Flags.MAGLEV for flags in port.frontends.values())
    if port.local is None or port.local == port.cluster:
        return [BackendList(port.cluster, maglev)]
    external_local = any(flags & Flags.EXTERNAL_LOCAL for flags in port.frontends.values())
    return [
        BackendList(port.cluster, maglev and not external_local),
        BackendList(port.local, maglev and external_local),
    ]


def frontend_of(port: Port, flags: Flags, lists: Lists) -> Frontend:
    """The table's entry for a frontend of the port: its policies choose the lists."""
    inside = port.local if flags & Flags.CLUSTER_IP and flags & Flags.INTERNAL_LOCAL else port.cluster
    outside = 0
    if flags & (EXTERNAL | Flags.HOST_PORT):
        outside = port.local if flags & Flags.EXTERNAL_LOCAL else port.cluster
    return Frontend(
        port.number,
        inside,
        len(lists.contents[inside].backends) if inside else 0,
        outside,
        len(lists.contents[outside].backends) if outside else 0,
        port.compiled.affinity_seconds,
        flags,
    )


def source_ranges_of(port: Port) -> Iterator[tuple[int, str]]:
    """(service number, network) of the port."""
    return ((port.number, network) for network in port.compiled.source_ranges)
