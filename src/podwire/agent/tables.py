"""The datapath's maps as tables of the reconciler: desired values in, map entries out."""

from __future__ import annotations

import errno
import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from podwire.agent.desired import Endpoint4
from podwire.agent.identity_ipcache import Ipcache4
from podwire.bpf import BpfError, Map
from podwire.datapath import NotInstalled

V = TypeVar("V")
OpenMap = Callable[[], Map]
"""Opens a map anew for each use: an upgrade may have put another one in its place."""

ENDPOINT_HOST, ENDPOINT_AUDIT = 1, 2
IPCACHE_CLUSTER, IPCACHE_SERVICE, IPCACHE_NODE, IPCACHE_LOCAL = 1, 2, 4, 8
_LAST_REVISION = 0xFFFFFFFF


class MapTable(ABC, Generic[V]):
    """A map whose keys and values are converted by the subclass."""

    name: str

    def __init__(self, open_map: OpenMap) -> None:
        self._open = open_map

    @abstractmethod
    def encode_key(self, key: str) -> Any:
        """The map's key for an entry's name."""

    @abstractmethod
    def decode_key(self, key: Any) -> str:
        """The entry's name for a key of the map; undoes ``encode_key``."""

    @abstractmethod
    def encode(self, value: V) -> dict[str, Any]:
        """The map's value, by the names of its fields."""

    @abstractmethod
    def decode(self, value: Any) -> V:
        """The entry for a value of the map; undoes ``encode``."""

    def read(self) -> dict[str, V]:
        return {self.decode_key(key): self.decode(value) for key, value in self._open().items()}

    def upsert(self, entries: Mapping[str, V]) -> dict[str, str]:
        encoded = {key: (self.encode_key(key), self.encode(value)) for key, value in entries.items()}
        kernel_map = self._open()
        if len(encoded) > 1:
            try:
                kernel_map.set_many(encoded.values())
                return {}
            except BpfError:
                pass  # find out below which entries it is about
        failures: dict[str, str] = {}
        for key, (raw_key, raw_value) in encoded.items():
            try:
                kernel_map.set(raw_key, raw_value)
            except BpfError as error:
                failures[key] = self._explain(error, kernel_map)
        return failures

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        failures: dict[str, str] = {}
        kernel_map = self._open()
        for key in keys:
            try:
                kernel_map.delete(self.encode_key(key))
            except BpfError as error:
                failures[key] = str(error)
        return failures

    def _explain(self, error: BpfError, kernel_map: Map) -> str:
        if error.errno in (errno.E2BIG, errno.ENOSPC):
            return (
                f"map podwire_{self.name} is full: all {kernel_map.info.max_entries} entries are in use; "
                f"raise its size in the datapath settings (map_entries) or run fewer pods on this node"
            )
        return str(error)


class EndpointsTable(MapTable[Endpoint4]):
    """podwire_endpoints4: address -> where it is on this node."""

    name = "endpoints4"

    def encode_key(self, key: str) -> dict[str, int]:
        return {"address": _number(key)}

    def decode_key(self, key: Any) -> str:
        return _text(key["address"])

    def encode(self, value: Endpoint4) -> dict[str, Any]:
        fields = {
            "ifindex": value.ifindex,
            "slot": value.slot,
            "flags": ENDPOINT_HOST * value.host | ENDPOINT_AUDIT * value.audit,
            "identity": value.identity,
            "mac": bytes.fromhex(value.mac.replace(":", "")),
        }
        # Programs of before policies have no such field: what needs none is served all the same.
        return {**fields, "policy": value.policy} if value.policy else fields

    def decode(self, value: Any) -> Endpoint4:
        return Endpoint4(
            value["ifindex"],
            value["slot"],
            value["mac"].hex(":"),
            host=bool(value["flags"] & ENDPOINT_HOST),
            identity=value["identity"],
            policy=value.get("policy", 0),
            audit=bool(value["flags"] & ENDPOINT_AUDIT),
        )


class IpcacheTable(MapTable[Ipcache4]):
    """podwire_ipcache4: prefix -> identity, next hop and kind."""

    name = "ipcache4"

    def encode_key(self, key: str) -> dict[str, int]:
        address, _, length = key.partition("/")
        return {"prefix_length": int(length), "address": _number(address)}

    def decode_key(self, key: Any) -> str:
        return f"{_text(key['address'])}/{key['prefix_length']}"

    def encode(self, value: Ipcache4) -> dict[str, Any]:
        flags = (
            IPCACHE_CLUSTER * value.cluster
            | IPCACHE_SERVICE * value.service
            | IPCACHE_NODE * value.node
            | IPCACHE_LOCAL * value.local
        )
        return {"identity": value.identity, "next_hop": _number(value.next_hop or "0.0.0.0"), "flags": flags}  # noqa: S104 - means "none"

    def decode(self, value: Any) -> Ipcache4:
        flags = value["flags"]
        return Ipcache4(
            value["identity"],
            next_hop=_text(value["next_hop"]) if value["next_hop"] else None,
            cluster=bool(flags & IPCACHE_CLUSTER),
            service=bool(flags & IPCACHE_SERVICE),
            node=bool(flags & IPCACHE_NODE),
            local=bool(flags & IPCACHE_LOCAL),
        )


class MasqueradeTable(MapTable[str]):
    """podwire_masquerade4: interface index -> address that masqueraded packets leave it with.

    Programs of an older version have no such map: pods are served all the same."""

    name = "masquerade4"

    def read(self) -> dict[str, str]:
        try:
            return super().read()
        except NotInstalled:
            return {}

    def upsert(self, entries: Mapping[str, str]) -> dict[str, str]:
        try:
            return super().upsert(entries)
        except NotInstalled as error:
            return {key: str(error) for key in entries}

    def encode_key(self, key: str) -> dict[str, int]:
        return {"ifindex": int(key)}

    def decode_key(self, key: Any) -> str:
        return str(key["ifindex"])

    def encode(self, value: str) -> dict[str, Any]:
        return {"address": _number(value)}

    def decode(self, value: Any) -> str:
        return _text(value["address"])


class Slots:
    """podwire_slots: revisions. Only ever moved forward, after the change they stand for."""

    def __init__(self, open_map: OpenMap) -> None:
        self._open = open_map

    @property
    def count(self) -> int:
        return self._open().info.max_entries

    def bump(self, slots: Iterable[int]) -> None:
        """Make every cached decision that involves these slots stale. Raises BpfError."""
        kernel_map = self._open()
        for slot in slots:
            kernel_map.set(slot, {"revision": following(_revision(kernel_map, slot))})

    def bump_all(self) -> None:
        """Make every cached decision stale. Raises BpfError."""
        kernel_map = self._open()
        kernel_map.set_many(
            [(slot, {"revision": following(old["revision"])}) for slot, old in kernel_map.items()]
        )

    def revision(self, slot: int) -> int:
        return _revision(self._open(), slot)


def _revision(kernel_map: Map, slot: int) -> int:
    value = kernel_map.get(slot)
    if value is None:
        raise BpfError("look up", f"slot {slot} of map podwire_slots", errno.ENOENT)
    return int(value["revision"])


def following(revision: int) -> int:
    """The revision after this one. 0 is what the datapath reads for a slot that does not exist: never
    that."""
    return revision + 1 if revision < _LAST_REVISION else 1


def _number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def _text(number: int) -> str:
    return str(ipaddress.IPv4Address(number))
