"""The datapath's tables of services: how their entries are written. Pure, but for the maps it is given.

Names of maps and fields are those of bpf/lib/service_map.h."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping

from podwire.bpf import BpfError, Map
from podwire.service.model import Backend, BackendList, Flags, Frontend, FrontendKey, Protocol

SERVICES, BACKENDS = "podwire_services4", "podwire_backends4"
MEMBERS, RANGES = "podwire_affinity_backends4", "podwire_source_ranges4"
MAGLEV = "podwire_maglev"

OpenMap = Callable[[str], Map]
"""Opens a map anew for each use: an upgrade may have put another one in its place."""
Raw = tuple[tuple[int, int], ...]
"""(address, port) of a list's backends, in the order of their index."""


def number(address: str) -> int:
    """An IPv4 address as a number."""
    return int.from_bytes(socket.inet_aton(address), "big")


def text(address: int) -> str:
    """The IPv4 address with this number."""
    return socket.inet_ntoa(address.to_bytes(4, "big"))


def frontend_key(key: FrontendKey) -> dict[str, int]:
    return {"address": number(key.address), "port": key.port, "protocol": int(key.protocol)}


def frontend_key_of(value: Mapping[str, int]) -> FrontendKey:
    """Undoes ``frontend_key``. Raises ValueError for a protocol that no agent wrote."""
    return FrontendKey(text(value["address"]), value["port"], Protocol(value["protocol"]))


def frontend_value(value: Frontend) -> dict[str, int]:
    return {
        "id": value.service,
        "list": value.list,
        "external_list": value.external_list,
        "count": value.count,
        "external_count": value.external_count,
        "affinity_seconds": value.affinity_seconds,
        "flags": int(value.flags),
    }


def frontend_of(value: Mapping[str, int]) -> Frontend:
    """Undoes ``frontend_value``."""
    return Frontend(
        value["id"], value["list"], value["count"], value["external_list"], value["external_count"],
        value["affinity_seconds"], Flags(value["flags"]),
    )  # fmt: skip


def list_entries(name: int, backends: Iterable[Backend]) -> list[tuple[dict[str, int], dict[str, int]]]:
    """A list of backends as entries of the table."""
    return [
        ({"list": name, "index": index}, {"address": number(address), "port": port})
        for index, (address, port) in enumerate(backends)
    ]


def raw(value: BackendList) -> Raw:
    """A list's backends as the kernel has them."""
    return tuple((number(address), port) for address, port in value.backends)


def member_key(member: tuple[int, Backend]) -> dict[str, int]:
    service, backend = member
    return {"service": service, "address": number(backend.address), "port": backend.port}


def member_of(value: Mapping[str, int]) -> tuple[int, Backend]:
    """Undoes ``member_key``."""
    return value["service"], Backend(text(value["address"]), value["port"])


SERVICE_BITS = 32
"""A source range's prefix covers the service's number, all of it, and then the network."""


def range_key(item: tuple[int, str]) -> dict[str, int]:
    service, network = item
    address, _, length = network.partition("/")
    return {"prefix_length": SERVICE_BITS + int(length), "service": service, "address": number(address)}


def range_of(value: Mapping[str, int]) -> tuple[int, str]:
    """Undoes ``range_key``."""
    return value["service"], f"{text(value['address'])}/{value['prefix_length'] - SERVICE_BITS}"


def explain(error: BpfError, full: Map, name: str) -> str:
    """Why an entry could not be written, and the way out."""
    if error.errno in (errno.E2BIG, errno.ENOSPC):
        return (
            f"map {name} is full: all {full.info.max_entries} entries are in use; raise its size in the "
            "datapath settings (map_entries) or use fewer services"
        )
    return str(error)
