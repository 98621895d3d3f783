"""Read CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (cilium.io/v2). Pure.

An object that says anything that is not understood has no rules, only errors: leaving parts of it out would
change what the rest means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podwire.policy import labels as security
from podwire.policy import selectors
from podwire.policy.model import Direction, Entry, Operator, Origin, Policy, Requirement, Rule, Selector
from podwire.policy.parse_common import (
    Notes,
    boolean,
    head,
    items,
    join,
    mapping,
    selector,
    shown,
    string,
)
from podwire.policy.parse_peers import MEMBERS, Context, peers
from podwire.policy.parse_ports import ports_and_icmps

NAMESPACED = "CiliumNetworkPolicy"
CLUSTERWIDE = "CiliumClusterwideNetworkPolicy"
LONGEST_LOG = 32
_OBJECT = ("apiVersion", "kind", "metadata", "spec", "specs", "status")
_SECTIONS: Mapping[str, tuple[Direction, bool]] = {
    "ingress": (Direction.INGRESS, False),
    "ingressDeny": (Direction.INGRESS, True),
    "egress": (Direction.EGRESS, False),
    "egressDeny": (Direction.EGRESS, True),
}
_RULE = ("endpointSelector", "nodeSelector", *_SECTIONS, "enableDefaultDeny", "labels", "description", "log")


def network_policy(value: object) -> Policy:
    """What a CiliumNetworkPolicy says. Never raises: what is wrong stands in ``errors``."""
    return _policy(NAMESPACED, value)


def clusterwide_network_policy(value: object) -> Policy:
    """What a CiliumClusterwideNetworkPolicy says. Never raises: what is wrong stands in ``errors``."""
    return _policy(CLUSTERWIDE, value)


def _policy(kind: str, value: object) -> Policy:
    notes = Notes()
    fields = mapping(value, "", notes, _OBJECT)
    about = head(kind, value, notes, namespaced=kind == NAMESPACED)
    rules = []
    if "spec" in fields:
        rules.append(_rule(fields["spec"], "spec", notes, about.origin))
    if "specs" in fields:
        rules += [
            _rule(item, place, notes, about.origin) for place, item in items(fields["specs"], "specs", notes)
        ]
    if not rules and not notes.errors:
        notes.error("spec", "spec or specs must be given")
    return about.policy(rules, notes)


def _rule(value: object, place: str, notes: Notes, origin: Origin) -> Rule:
    fields = mapping(value, place, notes, _RULE)
    subject = _subject(fields, place, notes, origin)
    context = Context(origin.namespace, init=selectors.names_key(subject, "init", (security.RESERVED,)))
    entries = [
        _entry(item, where, notes, context, section)
        for section in _SECTIONS
        if section in fields
        for where, item in items(fields[section], join(place, section), notes)
    ]
    if not entries and isinstance(value, Mapping):
        notes.error(
            place,
            f"says nothing: one of {', '.join(_SECTIONS)} must have an entry. An entry {{}} closes the "
            "direction and allows nothing",
        )
    _check_remarks(fields, place, notes)
    closed = _default_deny(fields, place, notes)
    return Rule(
        origin,
        subject,
        tuple(entries),
        frozenset(entry.direction for entry in entries if closed.get(entry.direction, True)),
        _log(fields, place, notes),
    )


def _subject(fields: Mapping[str, Any], place: str, notes: Notes, origin: Origin) -> Selector:
    if "nodeSelector" in fields:
        notes.error(
            join(place, "nodeSelector"),
            "rules for nodes are not supported; use endpointSelector, which selects pods",
        )
        return Selector()
    here = join(place, "endpointSelector")
    if "endpointSelector" not in fields:
        notes.error(
            here, "must be given; {} selects every pod " + ("of the namespace" if origin.namespace else "")
        )
        return Selector()
    written = selector(fields["endpointSelector"], here, notes)
    if not origin.namespace:
        return written
    own = selectors.one_of(security.NAMESPACE_KEY, origin.namespace)
    named = [item for item in written.requirements if _names_namespaces(item)]
    if any(origin.namespace not in item.values for item in named):
        notes.warn(
            here,
            f"a CiliumNetworkPolicy selects pods of its own namespace ({origin.namespace}) only; the one "
            "written here is ignored",
        )
    return Selector((*(item for item in written.requirements if item not in named), own))


def _names_namespaces(requirement: Requirement) -> bool:
    places = (security.NAMESPACE_KEY, security.key(security.ANY, security.POD_NAMESPACE))
    return requirement.operator is Operator.IN and requirement.key in places


def _entry(value: object, place: str, notes: Notes, context: Context, section: str) -> Entry:
    direction, deny = _SECTIONS[section]
    ingress = direction is Direction.INGRESS
    requires = "fromRequires" if ingress else "toRequires"
    known = [name for name in MEMBERS[ingress] if not (deny and name == "toFQDNs")]
    known += ["toPorts", "icmps", requires, *(() if deny else ("authentication",))]
    fields = mapping(value, place, notes, known)
    if requires in fields and list(items(fields[requires], join(place, requires), notes)):
        notes.error(
            join(place, requires),
            "not supported; write its labels into the selectors of the entries it should narrow",
        )
    if not deny and "authentication" in fields:
        here = join(place, "authentication")
        mode = mapping(fields["authentication"], here, notes, ("mode",)).get("mode")
        if mode != "disabled":
            notes.error(join(here, "mode"), f"{shown(mode)} is not supported; only disabled is")
    who = peers(fields, place, notes, context, ingress=ingress)
    ports = ports_and_icmps(fields, place, notes, ingress=ingress, deny=deny)
    if who is None and ports is None:  # neither: nobody, unlike in Kubernetes' policies
        who = ()
        if deny:
            notes.warn(place, "denies nothing; to deny everything, name the entity all")
    return Entry(direction, who, ports, deny, place)


def _default_deny(fields: Mapping[str, Any], place: str, notes: Notes) -> dict[Direction, bool]:
    """What ``enableDefaultDeny`` says of the directions it names."""
    if "enableDefaultDeny" not in fields:
        return {}
    here = join(place, "enableDefaultDeny")
    written = mapping(fields["enableDefaultDeny"], here, notes, ("ingress", "egress"))
    said = {}
    for direction in Direction:
        name = direction.name.lower()
        if name in written:
            value = boolean(written[name], join(here, name), notes)
            said[direction] = True if value is None else value
    return said


def _log(fields: Mapping[str, Any], place: str, notes: Notes) -> str:
    if "log" not in fields:
        return ""
    here = join(place, "log")
    value = string(
        mapping(fields["log"], here, notes, ("value",)).get("value", ""), join(here, "value"), notes
    )
    if len(value) > LONGEST_LOG:
        notes.error(join(here, "value"), f"at most {LONGEST_LOG} characters, not {len(value)}")
    return value


def _check_remarks(fields: Mapping[str, Any], place: str, notes: Notes) -> None:
    """Fields without influence on packets; their shape is checked all the same."""
    if "description" in fields:
        string(fields["description"], join(place, "description"), notes)
    if "labels" in fields:
        for where, item in items(fields["labels"], join(place, "labels"), notes):
            for name, text in mapping(item, where, notes, ("key", "value", "source")).items():
                string(text, join(where, name), notes)
