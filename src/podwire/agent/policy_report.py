"""Policies, identities and policy maps as the REST API shows them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

from podwire.agent.identity_view import World
from podwire.agent.policy_controller import Assigned
from podwire.agent.policy_store import Known, condition_wanted
from podwire.agent.policy_tables import CLOSED, OPEN
from podwire.policy import selectors
from podwire.policy.decide import match_of
from podwire.policy.identity import RESERVED, cidr_labels, is_class, is_local, is_reserved
from podwire.policy.judgement import MATCHES
from podwire.policy.model import (
    Block,
    Cidr,
    Compiled,
    Direction,
    Endpoints,
    Entity,
    Entry,
    Labels,
    MapKey,
    MapValue,
    NamedPort,
    Peer,
    Port,
    PortRange,
    Rule,
)

PROTOCOLS = {0: "ANY", 1: "ICMP", 6: "TCP", 17: "UDP", 132: "SCTP"}
DIRECTIONS = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}
ENABLED, DISABLED, AUDITED = "Enabled", "Disabled", "Audit"
LabelsOf = Callable[[int], list[str]]


# -- identities ------------------------------------------------------------------------------------


def label_list(labels: Labels) -> list[str]:
    """``source:key=value``, or ``source:key`` where the value is empty, as ``reserved:world``."""
    return sorted(f"{name}={value}" if value else name for name, value in labels.items())


def labels_of(identity: int, world: World, cidrs: Mapping[IPv4Network, int]) -> list[str]:
    """The labels of an identity; none when nobody knows it."""
    known = world.identities.get(identity) or RESERVED.get(identity)
    if known is not None:
        return label_list(known)
    if is_local(identity):
        prefix = next((prefix for prefix, number in cidrs.items() if number == identity), None)
        return label_list(cidr_labels(prefix)) if prefix is not None else []
    return []


def identity_list(world: World, cidrs: Mapping[IPv4Network, int]) -> list[dict[str, Any]]:
    """Every identity that this node knows, by number."""
    addresses: dict[int, list[str]] = {}
    for local in world.local.values():
        addresses.setdefault(local.identity, []).append(local.address)
    for remote in world.remote.values():
        addresses.setdefault(remote.identity, []).append(remote.address)
    for node, number in world.nodes.items():
        addresses.setdefault(number, []).append(node)
    found = {number: label_list(labels) for number, labels in {**RESERVED, **world.identities}.items()}
    prefixes = {number: prefix for prefix, number in cidrs.items()}
    found.update({number: label_list(cidr_labels(prefix)) for number, prefix in prefixes.items()})
    return [
        {
            "identity": number,
            "kind": identity_kind(number),
            "labels": labels,
            "prefix": str(prefixes[number]) if number in prefixes else None,
            "addresses": sorted(addresses.get(number, ())),
        }
        for number, labels in sorted(found.items())
        if number
    ]


def identity_kind(number: int) -> str:
    if is_reserved(number):
        return "reserved"
    return "cidr" if is_local(number) else "cluster"


# -- policies --------------------------------------------------------------------------------------


def policy_summary(known: Known, subjects: Sequence[str]) -> dict[str, Any]:
    """A policy as a line of a list. ``subjects``: names of this node's endpoints that it selects."""
    policy = known.policy
    in_force = known.in_force.policy if known.in_force else None
    return {
        "key": policy.origin.key,
        "kind": policy.origin.kind,
        "namespace": policy.origin.namespace,
        "name": policy.origin.name,
        "valid": not policy.errors,
        "errors": list(policy.errors),
        "warnings": list(policy.warnings),
        "status": condition_wanted(known).message,
        "generation": policy.generation,
        "resource_version": policy.resource_version,
        "in_force_generation": in_force.generation if in_force else None,
        "rules": len(in_force.rules) if in_force else 0,
        "subjects": list(subjects),
    }


def policy_details(known: Known, subjects: Sequence[str]) -> dict[str, Any]:
    """A policy with what its rules say, in the version that is in force."""
    rules = known.in_force.policy.rules if known.in_force else ()
    return {**policy_summary(known, subjects), "rules_in_force": [rule_details(rule) for rule in rules]}


def rule_details(rule: Rule) -> dict[str, Any]:
    return {
        "subject": selectors.text(rule.subject),
        "default_deny": [DIRECTIONS[direction] for direction in sorted(rule.default_deny)],
        "log": rule.log,
        "entries": [entry_details(entry) for entry in rule.entries],
    }


def entry_details(entry: Entry) -> dict[str, Any]:
    return {
        "place": entry.place,
        "direction": DIRECTIONS[entry.direction],
        "verdict": "deny" if entry.deny else "allow",
        "peers": None if entry.peers is None else [peer_text(peer) for peer in entry.peers],
        "ports": None if entry.ports is None else [port_text(port) for port in entry.ports],
    }


def peer_text(peer: Peer) -> str:
    """Whom a peer means, for people."""
    if isinstance(peer, Endpoints):
        return f"endpoints {selectors.text(peer.selector)}"
    if isinstance(peer, Entity):
        return f"entity {peer.name}"
    if isinstance(peer, Cidr | Block):
        excepted = ", ".join(str(prefix) for prefix in peer.excepted)
        kind = "cidr" if isinstance(peer, Cidr) else "ipBlock"
        return f"{kind} {peer.prefix}" + (f" except {excepted}" if excepted else "")
    if peer.selector is not None and not peer.name:
        return f"services {selectors.text(peer.selector)} in {peer.namespace or 'all namespaces'}"
    return f"service {peer.namespace}/{peer.name}"


def port_text(port: Port) -> str:
    """``80/TCP``, ``8000-8080/UDP``, ``http/TCP``, ``TCP`` for all ports, ``ICMP type 8``."""
    protocol = PROTOCOLS.get(port.protocol, str(port.protocol))
    if isinstance(port, NamedPort):
        return f"{port.name}/{protocol}"
    return numbers_text(port, protocol)


def numbers_text(port: PortRange, protocol: str) -> str:
    if (port.first, port.last) == (0, 65535):
        return protocol
    numbers = str(port.first) if port.first == port.last else f"{port.first}-{port.last}"
    return f"ICMP type {numbers}" if port.protocol == 1 else f"{numbers}/{protocol}"


# -- endpoints -------------------------------------------------------------------------------------


def endpoint_policy(assigned: Assigned | None, *, audit: bool) -> dict[str, Any]:
    """What judges an endpoint; None: nothing is known of it yet."""
    if assigned is None:
        return {
            "number": None, "revision": None, "ingress": None, "egress": None, "entries": 0,
            "problem": "its policy is not known yet",
        }  # fmt: skip
    on = AUDITED if audit and assigned.number != OPEN else ENABLED
    closed = assigned.number == CLOSED
    return {
        "number": assigned.number,
        "revision": assigned.revision,
        **{
            DIRECTIONS[direction]: on if closed or direction in assigned.compiled.enforced else DISABLED
            for direction in Direction
        },
        "entries": 0 if assigned.number == OPEN else assigned.compiled.size,
        "problem": assigned.problem,
    }


def policy_map(compiled: Compiled, labels: LabelsOf) -> list[dict[str, Any]]:
    """The entries of a policy map, each with its reason."""
    blocks: dict[tuple[Direction, int], list[str]] = {}
    for block, number in compiled.blocks.items():
        blocks.setdefault((block.direction, number), []).append(str(block.prefix))
    return [
        _map_entry(key, value, compiled.reasons, labels, blocks)
        for key, value in sorted(compiled.entries.items())
    ]


def _map_entry(
    key: MapKey,
    value: MapValue,
    reasons: Sequence[str],
    labels: LabelsOf,
    blocks: Mapping[tuple[Direction, int], Iterable[str]],
) -> dict[str, Any]:
    match = match_of(key)
    if is_class(key.identity):
        prefixes = ", ".join(sorted(blocks.get((key.direction, key.identity), ())))
        peer = [f"addresses in {prefixes}"]
    else:
        peer = labels(key.identity) if key.identity else ["everybody"]
    return {
        "direction": DIRECTIONS[Direction(key.direction)],
        "identity": key.identity,
        "labels": peer,
        "protocol": PROTOCOLS.get(key.protocol, str(key.protocol)),
        "ports": map_ports(key),
        "verdict": "deny" if value.deny else "allow",
        "match": MATCHES[match],
        "rule": reasons[value.rule - 1] if 0 < value.rule <= len(reasons) else "",
        "proxy_port": value.proxy_port,
    }


def map_ports(key: MapKey) -> str:
    """The ports of an entry: ``80``, ``8000-8007``, or ``*``."""
    if key.port_prefix == 0:
        return "*"
    size = 1 << (16 - key.port_prefix)
    first = key.port & ~(size - 1)
    return str(first) if size == 1 else f"{first}-{first + size - 1}"
