"""Read NetworkPolicy (networking.k8s.io/v1). Pure.

The API server has validated what it serves. What is not understood nevertheless (a field of a newer
Kubernetes) makes the entry that has it allow nothing, with a warning: Kubernetes asks implementations to
close then, and an object that was left out altogether would open the pods it isolates."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any

from podwire.policy import labels as security
from podwire.policy import selectors
from podwire.policy.model import (
    Block,
    Direction,
    Endpoints,
    Entry,
    NamedPort,
    Peer,
    Policy,
    Port,
    PortRange,
    Rule,
    Selector,
)
from podwire.policy.parse_common import (
    LAST_PORT,
    PROTOCOLS,
    Notes,
    contains,
    head,
    ipv4_only,
    is_port_name,
    items,
    join,
    mapping,
    number,
    prefix,
    selector,
    shown,
    string,
)

KIND = "NetworkPolicy"
_OBJECT = ("apiVersion", "kind", "metadata", "spec", "status")
_SPEC = ("podSelector", "policyTypes", "ingress", "egress")
_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}


def network_policy(value: object) -> Policy:
    """What a NetworkPolicy says. Never raises: what is wrong stands in ``errors`` or, where an entry is
    closed instead, in ``warnings``."""
    notes = Notes()
    fields = mapping(value, "", notes, _OBJECT)
    about = head(KIND, value, notes, namespaced=True)
    if "spec" not in fields and not notes.errors:
        notes.error("spec", "must be given")
    if notes.errors:
        return about.policy((), notes)
    namespace = about.origin.namespace
    spec = mapping(fields["spec"], "spec", notes, _SPEC)
    written = selector(spec.get("podSelector", {}), "spec.podSelector", notes, security.K8S)
    types = _types(spec, notes)
    entries = [
        _entry(item, place, notes, namespace, direction)
        for direction in sorted(types)
        for place, item in _listed(spec, "spec", direction.name.lower(), notes)
    ]
    return about.policy([Rule(about.origin, _within(written, namespace), tuple(entries), types)], notes)


def _types(spec: Mapping[str, Any], notes: Notes) -> frozenset[Direction]:
    written = _listed(spec, "spec", "policyTypes", notes)
    types = set()
    for place, item in written:
        if isinstance(item, str) and item in _TYPES:
            types.add(_TYPES[item])
        else:
            notes.error(place, f"must be Ingress or Egress, not {shown(item)}")
    if not written:
        types = {Direction.INGRESS, *([Direction.EGRESS] if spec.get("egress") else [])}
    return frozenset(types)


def _listed(fields: Mapping[str, Any], place: str, name: str, notes: Notes) -> list[tuple[str, Any]]:
    """Items of a list that may be absent, which means the same as empty everywhere in this API."""
    return list(items(fields[name], join(place, name), notes)) if name in fields else []


def _entry(value: object, place: str, notes: Notes, namespace: str, direction: Direction) -> Entry:
    own = Notes()
    side = "from" if direction is Direction.INGRESS else "to"
    fields = mapping(value, place, own, (side, "ports"))
    listed = _listed(fields, place, side, own)
    peers = [peer for where, item in listed for peer in _peer(item, where, own, namespace)]
    ports = [(where, item) for where, item in _listed(fields, place, "ports", own)]
    numbers = [port for where, item in ports for port in _port(item, where, own)]
    for warning in own.warnings:
        notes.warn("", warning)
    for error in own.all_errors():
        notes.warn("", f"{error} {place} allows nothing because of that.")
    if own.errors:
        return Entry(direction, (), None, place=place)
    return Entry(
        direction,
        tuple(dict.fromkeys(peers)) if listed else None,
        tuple(dict.fromkeys(numbers)) if ports else None,
        place=place,
    )


def _peer(value: object, place: str, notes: Notes, namespace: str) -> list[Peer]:
    fields = mapping(value, place, notes, ("podSelector", "namespaceSelector", "ipBlock"))
    if not fields:
        notes.error(place, "names no peer: podSelector, namespaceSelector or ipBlock must be given.")
        return []
    if "ipBlock" in fields:
        if len(fields) > 1:
            notes.error(place, "ipBlock cannot stand beside selectors.")
        return _block(fields["ipBlock"], join(place, "ipBlock"), notes)
    pods = selector(fields.get("podSelector", {}), join(place, "podSelector"), notes, security.K8S)
    if "namespaceSelector" not in fields:
        return [Endpoints(_within(pods, namespace))]
    namespaces = selector(
        fields["namespaceSelector"],
        join(place, "namespaceSelector"),
        notes,
        security.K8S,
        security.NAMESPACE_LABEL_PREFIX,
    )
    # Pods only: NotIn and DoesNotExist would match what is in no namespace, such as nodes and the world.
    in_any = selectors.exists(security.NAMESPACE_KEY)
    return [Endpoints(Selector((*pods.requirements, *namespaces.requirements, in_any)))]


def _within(written: Selector, namespace: str) -> Selector:
    return Selector((*written.requirements, selectors.one_of(security.NAMESPACE_KEY, namespace)))


def _block(value: object, place: str, notes: Notes) -> list[Peer]:
    fields = mapping(value, place, notes, ("cidr", "except"))
    read = prefix(fields.get("cidr"), join(place, "cidr"), notes)
    excepted: list[IPv4Network] = []
    for where, item in _listed(fields, place, "except", notes):
        out = prefix(item, where, notes)
        if out is None or read is None:
            continue
        if not contains(read[0], out[1]):
            notes.error(where, f"{shown(item)} is not inside of {fields['cidr']}.")
        elif isinstance(out[0], IPv4Network):
            excepted.append(out[0])
    network = ipv4_only(read[0], join(place, "cidr"), notes) if read else None
    return [Block(network, tuple(dict.fromkeys(excepted)))] if network else []


def _port(value: object, place: str, notes: Notes) -> list[Port]:
    fields = mapping(value, place, notes, ("port", "endPort", "protocol"))
    word = string(fields.get("protocol", "TCP"), join(place, "protocol"), notes)
    protocol = PROTOCOLS.get(word)
    if protocol is None:
        notes.error(join(place, "protocol"), f"must be one of {', '.join(PROTOCOLS)}, not {shown(word)}.")
        return []
    here, port = join(place, "port"), fields.get("port")
    if isinstance(port, str):
        if not is_port_name(port):
            notes.error(here, f"{shown(port)} is not the name of a port.")
        if "endPort" in fields:
            notes.error(join(place, "endPort"), "needs a port that is a number.")
        return [NamedPort(protocol, port.lower())]
    if "port" not in fields:
        if "endPort" in fields:
            notes.error(join(place, "endPort"), "needs a port.")
        return [PortRange(protocol)]
    first = number(port, here, notes, 1, LAST_PORT)
    if first is None:
        return []
    last = (
        number(fields["endPort"], join(place, "endPort"), notes, first, LAST_PORT)
        if "endPort" in fields
        else first
    )
    return [] if last is None else [PortRange(protocol, first, last)]
