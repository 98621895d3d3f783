"""Flows that no longer lead where they should, and are made to start anew.

TCP notices by itself that its peer is gone. A UDP flow does not: it would go on to a backend that left for as
long as its client keeps sending. So its entries in the connection table are deleted, and the next packet
chooses again. The same holds for a flow that began before its service did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from podwire.agent.service_tables import text
from podwire.bpf import Codec, Map
from podwire.service.model import ANY_ADDRESS, Backend, Frontend, FrontendKey, Protocol

CONNECTIONS = "podwire_ct4"
CT_TRANSLATED, CT_TRANSLATED_BACK = 1 << 4, 1 << 5
"""Flags of an entry: enum podwire_ct_flags."""


@dataclass(slots=True)
class Stale:
    """Which flows of UDP to forget."""

    backends: set[tuple[int, Backend]] = field(default_factory=set)
    """(service number, backend): flows of the service to that backend."""
    frontends: set[FrontendKey] = field(default_factory=set)
    """Flows that were sent there and not translated."""

    def __bool__(self) -> bool:
        return bool(self.backends or self.frontends)

    def add(self, other: Stale) -> None:
        self.backends |= other.backends
        self.frontends |= other.frontends

    def includes(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
        """Is this entry of the connection table one of them? It is one of UDP, decoded. Pure."""
        flags, service = value["flags"], value["service"]
        if flags & CT_TRANSLATED:
            rewrite = value["rewrite"]
            backend = Backend(text(rewrite["destination_address"]), rewrite["destination_port"])
            return (service, backend) in self.backends
        if flags & CT_TRANSLATED_BACK:
            return (service, Backend(text(key["source_address"]), key["source_port"])) in self.backends
        addresses, port = (text(key["destination_address"]), ANY_ADDRESS), key["destination_port"]
        return any(FrontendKey(address, port, Protocol.UDP) in self.frontends for address in addresses)


def stale_flows(released: set[tuple[int, Backend]], frontends: Mapping[FrontendKey, Frontend]) -> Stale:
    """What backends that left and frontends that were written mean for flows. Pure."""
    serving = {
        key
        for key, value in frontends.items()
        if key.protocol is Protocol.UDP and (value.count or value.external_count)
    }
    return Stale(set(released), serving)


def forget(table: Map, stale: Stale) -> int:
    """Delete the entries of flows that are stale; returns how many. Raises BpfError."""
    return table.delete_many([key for key, value in _udp(table) if stale.includes(key, value)])


def _udp(table: Map) -> Iterator[tuple[Any, Any]]:
    """Entries of UDP, decoded: the others, most of them, only cost a look."""
    protocol = _offset(table.key, "protocol")
    for key, value in table.raw_items():
        if key[protocol] == Protocol.UDP:
            yield table.key.decode(key), table.value.decode(value)


def _offset(codec: Codec, name: str) -> int:
    """Where a field of one byte is."""
    return codec.encode({name: 0xFF}).index(0xFF)
