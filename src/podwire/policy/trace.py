"""Would this connection be allowed, and by which rules? Answered from the rules alone, for any two ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from podwire.policy.cidr import EVERYWHERE, named_services, wanted_prefixes
from podwire.policy.compile import compile_policy
from podwire.policy.decide import Packet, decide
from podwire.policy.identity import FIRST, LOCAL_FIRST, RESERVED, UNKNOWN, WORLD
from podwire.policy.judgement import Judgement, Trace
from podwire.policy.labels import DEFAULT_CLUSTER
from podwire.policy.model import (
    Block,
    Direction,
    Enforcement,
    Entry,
    Identity,
    Labels,
    Rule,
    Subject,
)
from podwire.policy.selectors import matches
from podwire.policy.side import ALLOW_LOCALHOST
from podwire.policy.world import NamedPorts, ServiceView, World


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection."""

    name: str
    """For people."""
    labels: Labels
    """Of outside: ``reserved:world``."""
    address: IPv4Address | None = None
    """Rules about addresses need it."""
    named_ports: NamedPorts = frozenset()

    @property
    def outside(self) -> bool:
        """No part of the cluster, known by its address alone."""
        return not self.labels or "reserved:world" in self.labels

    @property
    def has_policy(self) -> bool:
        """Pods and health endpoints are subjects of policy; nodes and the world are not."""
        reserved = {key for key in self.labels if key.startswith("reserved:")}
        return not self.outside and reserved <= {"reserved:health", "reserved:init"}


@dataclass(frozen=True, slots=True)
class Rulebook:
    """Everything that is judged by."""

    rules: Sequence[Rule]
    """Of all policies, whomever they select."""
    enforcement: Enforcement = Enforcement.DEFAULT
    services: Sequence[ServiceView] = ()
    """Those that rules may name."""
    cluster: str = DEFAULT_CLUSTER


def trace(source: End, destination: End, protocol: int, port: int, book: Rulebook) -> Trace:
    """Judge the first packet of a connection to ``port`` (ICMP: the type) at both ends.

    ``destination`` is who really gets the packet: a service's backend."""
    if source.has_policy and source.address is not None and source.address == destination.address:
        return Trace(source.name, destination.name, protocol, port, (), "a pod always reaches itself")
    scene = _Scene(source, destination, book)
    judgements = []
    if source.has_policy:
        judgements.append(scene.judge(Direction.EGRESS, source, destination, protocol, port))
    if destination.has_policy:
        judgements.append(scene.judge(Direction.INGRESS, destination, source, protocol, port))
    return Trace(source.name, destination.name, protocol, port, tuple(judgements))


class _Scene:
    """A world of two."""

    def __init__(self, source: End, destination: End, book: Rulebook) -> None:
        self._book = book
        self._world = World(services=book.services, cluster=book.cluster)
        self._prefixes = wanted_prefixes(book.rules)
        self._prefixes |= self._world.prefixes_of(named_services(book.rules))
        self._numbers: dict[int, Identity] = {}
        for place, end in enumerate((source, destination)):
            self._numbers[id(end)] = self._introduce(end, place)
        self._world.refresh()

    def _introduce(self, end: End, place: int) -> Identity:
        if end.outside:
            return self._introduce_outside(end, LOCAL_FIRST + place)
        known = [
            number for number in RESERVED if number != UNKNOWN and set(RESERVED[number]) <= set(end.labels)
        ]
        number = max(known, key=lambda one: len(RESERVED[one]), default=FIRST + place)
        self._world.set_identity(number, end.labels)
        self._world.set_named_ports(number, end.named_ports)
        return number

    def _introduce_outside(self, end: End, number: Identity) -> Identity:
        special = end.labels if set(end.labels) - {"reserved:world"} else None
        if end.address is None:
            if special is None:
                return WORLD
            self._world.set_identity(number, special)
            return number
        if special is not None:
            prefix = IPv4Network(end.address)
        else:
            holding = (prefix for prefix in self._prefixes if end.address in prefix)
            prefix = max(holding, key=lambda one: one.prefixlen, default=EVERYWHERE)
        if prefix == EVERYWHERE:
            return WORLD
        self._world.set_cidr(prefix, number, special)
        return number

    def judge(self, direction: Direction, end: End, peer: End, protocol: int, port: int) -> Judgement:
        """Say what the policy of ``end`` makes of a packet to or from ``peer``."""
        mode = self._book.enforcement
        subject = Subject(self._numbers[id(end)], end.labels, end.named_ports)
        packet = Packet(direction, self._numbers[id(peer)], peer.address, protocol, port)
        rules = [] if mode is Enforcement.NEVER else self._book.rules
        rules = [rule for rule in rules if matches(rule.subject, end.labels)]
        saying: dict[bool, set[str]] = {False: set(), True: set()}
        for rule, entry in _entries(rules, direction):
            alone = compile_policy(
                subject, [replace(rule, entries=(entry,))], self._world, Enforcement.ALWAYS
            )
            found = decide(alone, packet)
            if found.match and found.reason != ALLOW_LOCALHOST:
                saying[entry.deny].add(found.reason)
        compiled = compile_policy(subject, rules, self._world, mode)
        return Judgement(
            direction,
            end.name,
            peer.name,
            direction in compiled.enforced,
            decide(compiled, packet),
            allowing=tuple(sorted(saying[False])),
            denying=tuple(sorted(saying[True])),
            closing=tuple(sorted({rule.origin.key for rule in rules if direction in rule.default_deny})),
            remarks=tuple(_remarks(rules, direction, peer)),
        )


def _entries(rules: Iterable[Rule], direction: Direction) -> Iterable[tuple[Rule, Entry]]:
    for rule in rules:
        for entry in rule.entries:
            if entry.direction is direction:
                yield rule, entry


def _remarks(rules: Iterable[Rule], direction: Direction, peer: End) -> Iterable[str]:
    if peer.address is None and any(
        isinstance(one, Block) for _, entry in _entries(rules, direction) for one in entry.peers or ()
    ):
        yield f"the address of {peer.name} is not known: rules with an ipBlock were left out"
