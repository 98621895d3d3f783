"""Show map entries to people: addresses, MAC addresses, names of flags, ages. Pure.

Names come from the enums in the datapath's own type information, so they never disagree with the programs.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from podwire.bpf.btf import Btf, Kind

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_ADDRESS_FIELDS = ("address", "next_hop")
_CLOCK_FIELDS = {"last_seen", "created", "decided", "used"}
_HIDDEN = {"pad", "pad2", "seen_jiffies"}


def names_of(btf: Btf | None, enum: str, prefix: str) -> dict[int, str]:
    """Names of an enum's values, without ``prefix`` and as words-with-dashes; empty without such an enum."""
    found = btf.find(enum, Kind.ENUM, Kind.ENUM64) if btf else None
    if found is None:
        return {}
    return {
        value: name.removeprefix(prefix).lower().replace("_", "-") for name, value in found.values.items()
    }


@dataclass(frozen=True)
class Names:
    """Which field of a map's value is an enum (one name) or a set of flags (a list of names)."""

    enums: Mapping[str, Mapping[int, str]]
    flags: Mapping[str, Mapping[int, str]]


_ENUMS = {
    "podwire_ct4": {
        "delivery": ("podwire_delivery", "PODWIRE_DELIVERY_"),
        "state": ("podwire_ct_state", "PODWIRE_CT_STATE_"),
    },
    "podwire_affinity4": {"kind": ("podwire_affinity_kind", "PODWIRE_AFFINITY_")},
    "podwire_metrics": {
        "reason": ("podwire_drop_reason", "PODWIRE_DROP_"),
        "direction": ("podwire_direction", "PODWIRE_DIRECTION_"),
    },
}
_FLAGS = {
    "podwire_ct4": ("podwire_ct_flags", "PODWIRE_CT_"),
    "podwire_ipcache4": ("podwire_ipcache_flags", "PODWIRE_IPCACHE_"),
    "podwire_endpoints4": ("podwire_endpoint_flags", "PODWIRE_ENDPOINT_FLAG_"),
    "podwire_services4": ("podwire_service_flags", "PODWIRE_SERVICE_"),
}


def names_for(map_name: str, btf: Btf | None) -> Names:
    """The names that belong to a map, from its type information."""
    enums = {field: names_of(btf, *where) for field, where in _ENUMS.get(map_name, {}).items()}
    flags = {"flags": names_of(btf, *_FLAGS[map_name])} if map_name in _FLAGS else {}
    return Names(enums, flags)


def entry(key: Any, value: Any, names: Names, now: int) -> dict[str, Any]:
    """One entry as a flat dict. ``now`` is CLOCK_MONOTONIC in ns; times become ``*_ago`` in seconds."""
    key_fields = key if isinstance(key, Mapping) else {"key": key}
    value_fields = summed(value) if isinstance(value, list) else value
    merged = {**key_fields}
    for name, item in (
        value_fields if isinstance(value_fields, Mapping) else {"value": value_fields}
    ).items():
        merged[f"to_{name}" if name in key_fields.keys() - _HIDDEN else name] = item
    shown: dict[str, Any] = {}
    for name, item in _flat(merged):
        if name in _HIDDEN:
            continue
        if name in _CLOCK_FIELDS:
            shown[f"{name}_ago"] = round(max(0, now - item) / 1e9, 3) if item else None
        else:
            shown[name] = _field(name, item, names)
    return shown


def _flat(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """A struct inside a value as fields of its own: None when nothing in it is set."""
    for name, item in fields.items():
        if isinstance(item, Mapping):
            for inner, part in item.items():
                yield f"{name}_{inner}", part if any(item.values()) else None
        else:
            yield name, item


def summed(values: Iterable[Any]) -> Any:
    """One value for the values of all CPUs: numbers are added, field by field."""
    items = list(values)
    if items and isinstance(items[0], Mapping):
        return {name: sum(item[name] for item in items) for name in items[0]}
    return sum(items)


def _field(name: str, value: Any, names: Names) -> Any:
    if name in names.flags:
        return flag_names(value, names.flags[name])
    if name in names.enums:
        return names.enums[name].get(value, str(value))
    if isinstance(value, int) and name.endswith(_ADDRESS_FIELDS):
        return str(ipaddress.IPv4Address(value))
    if isinstance(value, bytes):
        return ":".join(f"{byte:02x}" for byte in value)
    if name == "protocol":
        return PROTOCOLS.get(value, str(value))
    return value


def flag_names(value: int, known: Mapping[int, str]) -> list[str]:
    """Names of the bits set in ``value``; bits without a name as a number."""
    found = [name for bit, name in sorted(known.items()) if bit and value & bit == bit]
    rest = value & ~sum(bit for bit in known if value & bit == bit)
    return [*found, *([hex(rest)] if rest else [])]
