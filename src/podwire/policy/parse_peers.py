"""Peers of an entry of Cilium's policies: the ``from...`` and ``to...`` members. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from podwire.policy import labels as security
from podwire.policy import selectors
from podwire.policy.model import Cidr, Endpoints, Entity, Peer, Selector, Service
from podwire.policy.parse_common import (
    Notes,
    contains,
    ipv4_only,
    items,
    join,
    mapping,
    prefix,
    selector,
    shown,
    string,
)

ENTITIES = (
    "all", "world", "cluster", "host", "init", "ingress", "unmanaged", "remote-node", "health", "none",
    "kube-apiserver",
)  # fmt: skip
MEMBERS: Mapping[bool, tuple[str, ...]] = {
    True: ("fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities", "fromNodes", "fromGroups"),
    False: (
        "toEndpoints", "toCIDR", "toCIDRSet", "toEntities", "toServices", "toNodes", "toGroups", "toFQDNs",
    ),
}  # fmt: skip
"""By whether the entry is one of ingress."""
_INSTEAD: Mapping[str, str] = {
    "Nodes": "not supported yet; use the entities host and remote-node",
    "Groups": "not supported; list the addresses as CIDRs",
    "FQDNs": "not supported yet; list the addresses as CIDRs",
}


@dataclass(frozen=True, slots=True)
class Context:
    """What an entry's meaning depends on beside itself."""

    namespace: str
    """Of the policy; empty for a clusterwide one."""
    init: bool = False
    """Whether the subject is ``reserved:init``."""


def peers(
    entry: Mapping[str, Any], place: str, notes: Notes, context: Context, *, ingress: bool
) -> tuple[Peer, ...] | None:
    """Peers of an entry; None (everybody) when it names none at all, empty (nobody) when only empty lists."""
    direction = "from" if ingress else "to"
    given = [name for name in MEMBERS[ingress] if name in entry]
    found: list[Peer] = []
    filled = []
    for name in given:
        read = _READERS.get(name.removeprefix(direction))
        here = join(place, name)
        listed = list(items(entry[name], here, notes))
        if listed:
            filled.append(name)
        if listed and read is None:
            notes.error(here, _INSTEAD[name.removeprefix(direction)])
        elif read is not None:
            for where, item in listed:
                found.extend(read(item, where, notes, context))
    if len(filled) > 1:
        notes.error(place, f"{' and '.join(filled)} cannot stand in one entry; write one entry for each")
    return tuple(dict.fromkeys(found)) if given else None


def _endpoints(item: object, place: str, notes: Notes, context: Context) -> list[Peer]:
    return [Endpoints(bound(selector(item, place, notes), context))]


def bound(written: Selector, context: Context) -> Selector:
    """A peer's selector with the namespace that it implies."""
    if selectors.names_source(written, security.RESERVED) or selectors.names_key(
        written, security.POD_NAMESPACE
    ):
        return written
    if not context.namespace:
        if context.init:
            return written
        added = selectors.exists(security.NAMESPACE_KEY)
    elif selectors.names_prefix(written, security.NAMESPACE_LABEL_PREFIX):
        return written
    else:
        added = selectors.one_of(security.NAMESPACE_KEY, context.namespace)
    return Selector((*written.requirements, added))


def _cidr(item: object, place: str, notes: Notes, _: Context) -> list[Peer]:
    read = prefix(item, place, notes, bare=True)
    network = ipv4_only(read[0], place, notes) if read else None
    return [Cidr(network)] if network else []


def _cidr_set(item: object, place: str, notes: Notes, _: Context) -> list[Peer]:
    fields = mapping(item, place, notes, ("cidr", "except", "cidrGroupRef", "cidrGroupSelector"))
    kinds = [name for name in ("cidr", "cidrGroupRef", "cidrGroupSelector") if fields.get(name, "") != ""]
    if len(kinds) != 1:
        notes.error(place, "exactly one of cidr, cidrGroupRef and cidrGroupSelector must be given")
    for name in kinds:
        if name != "cidr":
            notes.error(join(place, name), "groups of CIDRs are not supported yet; list their prefixes here")
    read = prefix(fields["cidr"], join(place, "cidr"), notes) if kinds == ["cidr"] else None
    excepted: list[IPv4Network] = []
    for where, value in items(fields["except"], join(place, "except"), notes) if "except" in fields else ():
        out = prefix(value, where, notes)
        if out is None or read is None:
            continue
        if not contains(read[0], out[1]):
            notes.error(where, f"{shown(value)} is not inside of {fields['cidr']}")
        elif isinstance(out[0], IPv4Network):
            excepted.append(out[0])
    network = ipv4_only(read[0], join(place, "cidr"), notes) if read else None
    return [Cidr(network, tuple(dict.fromkeys(excepted)))] if network else []


def _entity(item: object, place: str, notes: Notes, _: Context) -> list[Peer]:
    name = string(item, place, notes)
    if name not in ENTITIES:
        if isinstance(item, str):
            notes.error(place, f"{shown(name)} is no entity; known are {', '.join(ENTITIES)}")
        return []
    return [] if name == "none" else [Entity(name)]


def _service(item: object, place: str, notes: Notes, _: Context) -> list[Peer]:
    fields = mapping(item, place, notes, ("k8sService", "k8sServiceSelector"))
    if len(fields) != 1:
        notes.error(place, "exactly one of k8sService and k8sServiceSelector must be given")
        return []
    if "k8sService" in fields:
        here = join(place, "k8sService")
        named = mapping(fields["k8sService"], here, notes, ("serviceName", "namespace"))
        name = string(named.get("serviceName", ""), join(here, "serviceName"), notes)
        if not name:
            notes.error(join(here, "serviceName"), "must be given")
        return [Service(_namespace(named, here, notes), name)]
    here = join(place, "k8sServiceSelector")
    chosen = mapping(fields["k8sServiceSelector"], here, notes, ("selector", "namespace"))
    if "selector" not in chosen:
        notes.error(join(here, "selector"), "must be given; {} selects every service")
        return []
    labels = selector(chosen["selector"], join(here, "selector"), notes, relevant=False)
    return [Service(_namespace(chosen, here, notes), selector=labels)]


def _namespace(fields: Mapping[str, Any], place: str, notes: Notes) -> str:
    return string(fields.get("namespace", ""), join(place, "namespace"), notes)


_READERS: Mapping[str, Callable[[object, str, Notes, Context], list[Peer]]] = {
    "Endpoints": _endpoints,
    "CIDR": _cidr,
    "CIDRSet": _cidr_set,
    "Entities": _entity,
    "Services": _service,
}
