"""Reading API objects with errors that name the place. Pure; nothing here raises on any JSON value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

from podwire.policy import labels as security
from podwire.policy.model import (
    PROTOCOL_SCTP,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    Operator,
    Origin,
    Policy,
    Requirement,
    Rule,
    Selector,
)

PROTOCOLS: Mapping[str, int] = {"TCP": PROTOCOL_TCP, "UDP": PROTOCOL_UDP, "SCTP": PROTOCOL_SCTP}
MOST_MESSAGES = 20
"""Errors (and warnings) kept per object: what is wrong 10,000 times is said often enough."""
LAST_PORT = 65535
_SHOWN = 60
_PORT_NAME = re.compile(r"(?=.{1,15}\Z)(?=.*[A-Za-z])[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")
_LABEL_KEY = re.compile(
    r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
)
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LONGEST_KEY = 350
_LONGEST_VALUE = 63


@dataclass(slots=True)
class Notes:
    """What there is to say about an object."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _left_out: int = 0

    def error(self, place: str, sentence: str) -> None:
        if len(self.errors) < MOST_MESSAGES:
            self.errors.append(_at(place, sentence))
        else:
            self._left_out += 1

    def warn(self, place: str, sentence: str) -> None:
        said = _at(place, sentence)
        if len(self.warnings) < MOST_MESSAGES and said not in self.warnings:
            self.warnings.append(said)

    def all_errors(self) -> tuple[str, ...]:
        more = (f"and {self._left_out} more errors",) if self._left_out else ()
        return (*self.errors, *more)


def _at(place: str, sentence: str) -> str:
    return f"{place}: {sentence}" if place else sentence


def shown(value: object) -> str:
    """A value as JSON, shortened, for messages."""
    try:
        written = json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        written = f"a {type(value).__name__}"
    return written if len(written) <= _SHOWN else f"{written[: _SHOWN - 3]}..."


# -- shapes ----------------------------------------------------------------------------------------


def mapping(value: object, place: str, notes: Notes, known: Sequence[str] | None = None) -> dict[str, Any]:
    """The value as an object that has ``known`` fields only (None: any). Empty when it is none."""
    if not isinstance(value, Mapping):
        notes.error(place, f"must be an object, not {_kind(value)}")
        return {}
    for name in value:
        if not isinstance(name, str):
            notes.error(place, f"the field name {shown(name)} must be a string")
        elif known is not None and name not in known:
            notes.error(
                join(place, name),
                f"unknown field, which could change what the policy means. {_hint(name, known)}",
            )
    return {name: item for name, item in value.items() if isinstance(name, str)}


def _hint(name: str, known: Sequence[str]) -> str:
    """What was probably meant."""
    for other in known:
        if other.lower() == name.lower():
            return f"Did you mean {other}?"
    return f"Known here: {', '.join(known)}."


def items(value: object, place: str, notes: Notes) -> Iterator[tuple[str, Any]]:
    """Place and value of each item of a list; none when it is no list."""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"{place}[{index}]", item
    else:
        notes.error(place, f"must be a list, not {_kind(value)}")


def string(value: object, place: str, notes: Notes) -> str:
    """The value as a string; empty when it is none."""
    if isinstance(value, str):
        return value
    notes.error(place, f"must be a string, not {_kind(value)}{_quote_hint(value)}")
    return ""


def _quote_hint(value: object) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f'; write it in quotes: "{value}"' if is_number else ""


def boolean(value: object, place: str, notes: Notes) -> bool | None:
    """The value as a truth value; None when it is none."""
    if isinstance(value, bool):
        return value
    notes.error(place, f"must be true or false, not {_kind(value)}")
    return None


def number(value: object, place: str, notes: Notes, first: int, last: int) -> int | None:
    """The value as an integer of a range; None when it is none."""
    if isinstance(value, int) and not isinstance(value, bool) and first <= value <= last:
        return value
    notes.error(place, f"must be a number from {first} to {last}, not {shown(value)}")
    return None


def _kind(value: object) -> str:
    if value is None:
        return "null (leave the field out, or write what is meant)"
    names = {bool: "a truth value", int: "the number", float: "the number", str: "the string"}
    name = names.get(type(value))
    if name is None:
        return "a list" if isinstance(value, (list, tuple)) else "an object"
    return f"{name} {shown(value)}"


def join(place: str, name: str) -> str:
    """Place of a field."""
    return f"{place}.{name}" if place else name


# -- selectors -------------------------------------------------------------------------------------

_OPERATORS = {operator.value: operator for operator in Operator}
_EXPRESSION = ("key", "operator", "values")


def selector(
    value: object, place: str, notes: Notes, source: str = "", prefix: str = "", *, relevant: bool = True
) -> Selector:
    """A label selector. ``source`` is that of every key (Kubernetes' own selectors); empty: as written before
    the colon, else ``any``. ``prefix`` is put before every key. ``relevant``: it is about identities, which
    lack some labels; a warning says so."""
    read = _SelectorReader(notes, source, prefix, relevant)
    fields = mapping(value, place, notes, ("matchLabels", "matchExpressions"))
    requirements: list[Requirement] = []
    if "matchLabels" in fields:
        here = join(place, "matchLabels")
        written = mapping(fields["matchLabels"], here, notes)
        for name in sorted(written):
            requirements.append(read.label(name, written[name], f"{here}[{name}]"))
    if "matchExpressions" in fields:
        for here, item in items(fields["matchExpressions"], join(place, "matchExpressions"), notes):
            requirement = read.expression(item, here)
            if requirement is not None:
                requirements.append(requirement)
    return Selector(tuple(requirements))


@dataclass(frozen=True, slots=True)
class _SelectorReader:
    notes: Notes
    source: str
    prefix: str
    relevant: bool

    def label(self, name: str, value: object, place: str) -> Requirement:
        return Requirement(self.key(name, place), Operator.IN, frozenset({self.value(value, place)}))

    def expression(self, item: object, place: str) -> Requirement | None:
        fields = mapping(item, place, self.notes, _EXPRESSION)
        missing = [name for name in ("key", "operator") if name not in fields]
        if missing:
            self.notes.error(place, f"{' and '.join(missing)} must be given")
            return None
        name = self.key(string(fields["key"], join(place, "key"), self.notes), join(place, "key"))
        word = fields["operator"]
        operator = _OPERATORS.get(word) if isinstance(word, str) else None
        if operator is None:
            self.notes.error(
                join(place, "operator"), f"must be one of {', '.join(_OPERATORS)}, not {shown(word)}"
            )
            return None
        here = join(place, "values")
        listed = list(items(fields["values"], here, self.notes)) if "values" in fields else []
        values = frozenset(self.value(value, where) for where, value in listed)
        with_values = operator in (Operator.IN, Operator.NOT_IN)
        if with_values and not values:
            self.notes.error(here, f"{operator.value} needs at least one value")
        if values and not with_values:
            self.notes.error(here, f"{operator.value} takes no values")
        return Requirement(name, operator, values)

    def key(self, written: str, place: str) -> str:
        full = (
            security.key(self.source, self.prefix + written)
            if self.source
            else security.selector_key(written)
        )
        source, name = security.split(full)
        if self.source and ":" in written:
            self.notes.error(place, f"{shown(written)} is not a label key")
        elif source in ("cidr", "cidrgroup", "fqdn"):
            self.notes.error(
                place,
                f"labels of source {source} cannot be selected; name addresses by the entry's CIDR fields",
            )
        elif source == "node":
            self.notes.error(
                place, "labels of nodes are not supported yet; use the entities host and remote-node"
            )
        elif len(name) > _LONGEST_KEY or not _LABEL_KEY.fullmatch(name):
            self.notes.error(place, f"{shown(written)} is not a label key")
        elif source != security.ANY and source not in security.SOURCES:
            self.notes.warn(place, f"no endpoint has labels of source {source!r}")
        elif self.relevant and not security.usable_in_selector(full):
            self.notes.warn(
                place, f"the label {name} is not part of identities, so no endpoint appears to have it"
            )
        return full

    def value(self, value: object, place: str) -> str:
        written = string(value, place, self.notes)
        if len(written) > _LONGEST_VALUE or not _LABEL_VALUE.fullmatch(written):
            self.notes.error(
                place,
                f"{shown(written)} is not a label value (at most 63 letters, digits, '-', '_', '.', which "
                "begins and ends with a letter or digit)",
            )
        return written


# -- addresses -------------------------------------------------------------------------------------


Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address


def prefix(value: object, place: str, notes: Notes, *, bare: bool = False) -> tuple[Network, Address] | None:
    """The network that a text such as ``192.0.2.0/24`` names, and the address as written: bits behind the
    length may be set. ``bare``: an address without length is a network of its own."""
    written = string(value, place, notes)
    if not isinstance(value, str):
        return None
    address, slash, length = written.partition("/")
    try:
        if "%" in address:  # an interface of the reader's own node
            raise ValueError(address)
        at = ip_address(address)
        if not slash and bare:
            return ip_network(at), at
        if not slash:
            full = at.max_prefixlen
            notes.error(place, f"{shown(written)} needs a prefix length; one address is {address}/{full}")
            return None
        # Not 255.255.255.0, not /08: only Kubernetes' form.
        if not (length.isascii() and length.isdigit()) or (len(length) > 1 and length[0] == "0"):
            raise ValueError(length)
        return ip_network(f"{address}/{length}", strict=False), at
    except ValueError:
        notes.error(place, f"{shown(written)} is not an IP prefix such as 192.0.2.0/24")
        return None


def contains(network: Network, address: Address) -> bool:
    """Whether an address is of the network and its family."""
    return address.version == network.version and address in network


def ipv4_only(network: Network, place: str, notes: Notes) -> IPv4Network | None:
    """The network when pods can have traffic with it; they have IPv4 addresses only."""
    if isinstance(network, IPv4Network):
        return network
    notes.warn(place, f"pods have no IPv6 addresses: {network} matches nothing")
    return None


def is_port_name(value: str) -> bool:
    """Whether it is an IANA service name."""
    return bool(_PORT_NAME.fullmatch(value))


# -- objects ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """Metadata of an object."""

    origin: Origin
    resource_version: str
    generation: int

    def policy(self, rules: Sequence[Rule], notes: Notes) -> Policy:
        """The object's policy; without rules when there are errors."""
        errors = notes.all_errors()
        return Policy(
            self.origin,
            () if errors else tuple(rules),
            errors,
            tuple(notes.warnings),
            self.resource_version,
            self.generation,
        )


def head(kind: str, value: object, notes: Notes, *, namespaced: bool) -> Head:
    """Metadata; a missing name (or namespace) is an error."""
    metadata = value.get("metadata") if isinstance(value, Mapping) else None
    if not isinstance(metadata, Mapping):
        notes.error("metadata", "must be an object with a name")
        metadata = {}

    def written(name: str) -> str:
        found = metadata.get(name)
        return found if isinstance(found, str) else ""

    for name in ("name", "namespace") if namespaced else ("name",):
        if not written(name) and metadata:
            notes.error(f"metadata.{name}", "must be given")
    generation = metadata.get("generation")
    return Head(
        Origin(kind, written("namespace") if namespaced else "", written("name"), written("uid")),
        written("resourceVersion"),
        generation if isinstance(generation, int) else 0,
    )
