"""Services in the maps of a node, as the agent writes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from scapy.packet import Packet

from podwire.bpf import Map
from podwire.datapath import maglev
from tests.bpf.node import POD_A, Node, number
from tests.bpf.packets import ends, of

CLUSTER_IP, NODE_PORT, EXTERNAL_IP, LOAD_BALANCER, HOST_PORT = 1, 2, 4, 8, 16
EXTERNAL_LOCAL, INTERNAL_LOCAL, MAGLEV, SOURCE_RANGES = 32, 64, 128, 256
TRANSLATED, TRANSLATED_BACK, SERVICES = 16, 32, 64
SEEN_TRANSLATE = 0x5703
HAIRPIN = "169.254.42.1"
ANY = "0.0.0.0"

Backend = tuple[str, int]


class Services:
    """Writes frontends and lists of backends; every list gets a new id, as lists never change."""

    def __init__(self, maps: Any) -> None:
        """``maps`` gives a map by name: a dict, or a function."""
        self._map = maps if callable(maps) else maps.__getitem__
        self._lists = itertools.count(1)

    def map(self, name: str) -> Map:
        found: Map = self._map(name)
        return found

    def list(self, backends: Sequence[Backend]) -> int:
        number_of_list = next(self._lists)
        for index, (address, port) in enumerate(backends):
            self.map("podwire_backends4").set(
                {"list": number_of_list, "index": index}, {"address": number(address), "port": port}
            )
        return number_of_list

    def expose(
        self,
        address: str,
        port: int,
        protocol: int,
        backends: Sequence[Backend],
        *,
        flags: int = CLUSTER_IP,
        external: Sequence[Backend] | None = None,
        service: int = 1,
        affinity: int = 0,
    ) -> int:
        """Let a frontend point to new lists; returns the id of the external one."""
        internal_list = self.list(backends)
        if flags & CLUSTER_IP:
            external, external_list = (), 0
        elif external is None:
            external, external_list = backends, internal_list
        else:
            external_list = self.list(external)
        if affinity:
            for backend, backend_port in {*backends, *external}:
                key = {"service": service, "address": number(backend), "port": backend_port}
                self.map("podwire_affinity_backends4").set(key, 1)
        self.map("podwire_services4").set(
            {"address": number(address), "port": port, "protocol": protocol},
            {
                "id": service,
                "list": internal_list,
                "count": len(backends),
                "external_list": external_list,
                "external_count": len(external),
                "affinity_seconds": affinity,
                "flags": flags,
            },
        )
        return external_list

    def withdraw(self, address: str, port: int, protocol: int) -> None:
        self.map("podwire_services4").delete({"address": number(address), "port": port, "protocol": protocol})

    def allow(self, service: int, prefix: str, bits: int) -> None:
        key = {"prefix_length": 32 + bits, "service": service, "address": number(prefix)}
        self.map("podwire_source_ranges4").set(key, 1)

    def maglev(self, external_list: int, table: Sequence[int]) -> None:
        maglev.put(self.map("podwire_maglev"), external_list, table)


def backend_of(node: Node, packet: Packet) -> tuple[str, int]:
    """Where a pod's packet to a service goes."""
    return ends(node.from_pod(of(POD_A) / packet).packet)[2:]


def earlier(time: int, seconds: int) -> int:
    """Also before the machine was started: the datapath's clock wraps as its numbers do."""
    return (time - seconds * 1_000_000_000) % (1 << 64)
