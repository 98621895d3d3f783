"""From rules to the contents of one subject's policy map."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TypeAlias

from podwire.policy.cidr import Interval, divide, network
from podwire.policy.entries import Entries, Run
from podwire.policy.grants import Grants, meet
from podwire.policy.identity import CLASS_FIRST, HOST, INIT, UNKNOWN
from podwire.policy.model import (
    Block,
    BlockKey,
    Compiled,
    Direction,
    Enforcement,
    Identity,
    MapValue,
    Rule,
    Subject,
)
from podwire.policy.ports import EVERYTHING, PORT_BITS, Grant, PortPrefix, Verdicts, normalise
from podwire.policy.prepared import PreparedEntry, PreparedRule, prepare
from podwire.policy.selectors import matches
from podwire.policy.world import World

EVERYBODY: Identity = UNKNOWN
"""In a policy map's key."""
NO_CLASS: Identity = CLASS_FIRST - 1
"""Class of addresses that an except took out of every block; it has no entries."""
ALLOW_LOCALHOST = "reserved/allow-localhost"
"""Reason of what lets the node reach its own pods."""
NOT_ENFORCED = "reserved/not-enforced"
"""Reason of what keeps a direction open that no rule closes."""
BOTH = frozenset(Direction)
Groups: TypeAlias = dict[Verdicts, list[Identity]]


def compile_policy(
    subject: Subject, rules: Iterable[Rule], world: World, enforcement: Enforcement = Enforcement.DEFAULT
) -> Compiled:
    """Return what the policy map of ``subject`` must hold; rules that do not select it are left out.

    Prefixes of CIDR rules count as far as ``world`` has identities for them (``wanted_prefixes``).
    ValueError: a rule says what no policy can, such as an unknown entity."""
    world.refresh()
    prepared = [prepare(rule, world) for rule in rules if matches(rule.subject, subject.labels)]
    return compile_prepared(subject, prepared, world, enforcement)


def enforced_directions(
    subject: Subject, rules: Iterable[Rule], enforcement: Enforcement
) -> frozenset[Direction]:
    """Return the directions in which ``subject``, selected by all ``rules``, gets only what they allow."""
    if enforcement is Enforcement.NEVER:
        return frozenset()
    if enforcement is Enforcement.ALWAYS or subject.identity == INIT:
        return BOTH
    return frozenset[Direction]().union(*(rule.default_deny for rule in rules))


def compile_prepared(
    subject: Subject, rules: Sequence[PreparedRule], world: World, enforcement: Enforcement
) -> Compiled:
    """Do the same with rules that select the subject and are bound to ``world`` already."""
    enforced = enforced_directions(subject, (prepared.rule for prepared in rules), enforcement)
    if enforcement is Enforcement.NEVER:
        rules = ()
    sides = []
    for direction in Direction:
        side = _Side(direction, direction in enforced, subject, world)
        for prepared in rules:
            for entry in prepared.entries:
                if entry.direction is direction:
                    side.add(entry)
        sides.append((direction, *side.finish()))
    return _write(enforced, sides)


@dataclass(slots=True)
class _Side:
    """One direction while its grants are collected."""

    direction: Direction
    enforced: bool
    subject: Subject
    world: World
    everybody: list[Grant] = field(default_factory=list)
    terms: defaultdict[int, list[Grant]] = field(default_factory=lambda: defaultdict(list))
    """Bits of identities -> what they get."""
    blocks: list[tuple[Block, Grant]] = field(default_factory=list)

    def add(self, entry: PreparedEntry) -> None:
        """Take in an entry of this direction."""
        if not entry.deny and not self.enforced:
            return
        bits = 0
        for selection in entry.selections:
            bits |= selection.bits
        ports = entry.ports
        if entry.named and self.direction is Direction.INGRESS:
            ports = tuple(sorted({*ports, *self._own(entry)}))
        if ports:
            grant = Grant(ports, entry.deny, entry.reason)
            if entry.everybody:
                self.everybody.append(grant)
            elif bits:
                self.terms[bits].append(grant)
            if not entry.everybody:
                self.blocks.extend((block, grant) for block in entry.blocks)
        if entry.named and self.direction is Direction.EGRESS:
            self._add_named(entry, bits)

    def _own(self, entry: PreparedEntry) -> Iterable[PortPrefix]:
        wanted = {(port.name, port.protocol) for port in entry.named}
        for name, protocol, number in self.subject.named_ports:
            if (name, protocol) in wanted:
                yield PortPrefix(protocol, number, PORT_BITS)

    def _add_named(self, entry: PreparedEntry, bits: int) -> None:
        """Each peer has its own number for a name; addresses in blocks have none that rules could know."""
        for port in entry.named:
            for number, having in self.world.named(port.name, port.protocol).items():
                meant = having if entry.everybody else having & bits
                if meant:
                    ports = (PortPrefix(port.protocol, number, PORT_BITS),)
                    self.terms[meant].append(Grant(ports, entry.deny, entry.reason))

    def finish(self) -> tuple[Groups, dict[Interval, Verdicts]]:
        """Return verdicts with the identities they hold for, and the borders of blocks with theirs."""
        if not self.enforced:
            self.everybody.append(Grant((EVERYTHING,), False, NOT_ENFORCED))
        elif self.direction is Direction.INGRESS:
            self.terms[self.world.slot_bit(HOST)].append(Grant((EVERYTHING,), False, ALLOW_LOCALHOST))
        groups = self._peers()
        if self.everybody:
            everybody = normalise(self.everybody)
            groups[everybody] = [EVERYBODY, *groups.get(everybody, ())]
        return groups, self._borders()

    def _peers(self) -> Groups:
        order = sorted({grant for term in self.terms.values() for grant in term}, key=_by_reason)
        bits = {grant: 1 << place for place, grant in enumerate(order)}
        grants = Grants(order)
        terms = {who: reduce(or_, (bits[grant] for grant in term)) for who, term in self.terms.items()}
        together: defaultdict[Verdicts, int] = defaultdict(int)
        for members, identities in meet(terms).items():
            together[grants.verdicts(members)] |= identities
        return {verdicts: sorted(self.world.numbers(identities)) for verdicts, identities in together.items()}

    def _borders(self) -> dict[Interval, Verdicts]:
        pairs = sorted(self.blocks, key=lambda pair: _by_reason(pair[1]))
        grants = Grants([grant for _, grant in pairs])
        return {
            prefix: grants.verdicts(members)
            for prefix, members in divide([block for block, _ in pairs]).items()
        }


def _by_reason(grant: Grant) -> tuple[str, Grant]:
    return grant.reason, grant


def _write(
    enforced: frozenset[Direction], sides: Iterable[tuple[Direction, Groups, dict[Interval, Verdicts]]]
) -> Compiled:
    """Number reasons and classes; equal contents get equal numbers, whatever order the rules came in."""
    digest = hashlib.sha256(repr(sorted(enforced)).encode())
    blocks: dict[BlockKey, Identity] = {}
    filled: list[tuple[Direction, Groups]] = []
    fresh = itertools.count(CLASS_FIRST)
    for direction, groups, borders in sides:
        classes: dict[Verdicts, Identity] = {(): NO_CLASS}
        for verdicts in sorted(set(borders.values()) - {()}):
            classes[verdicts] = next(fresh)
        for prefix, verdicts in sorted(borders.items()):
            blocks[BlockKey(direction, network(prefix))] = classes[verdicts]
            digest.update(b"%d %d/%d %d;" % (direction, *prefix, classes[verdicts]))
        for verdicts, number in classes.items():
            if verdicts:
                groups[verdicts] = [*groups.get(verdicts, ()), number]
        filled.append((direction, groups))
    reasons = sorted({verdict.reason for _, groups in filled for verdicts in groups for verdict in verdicts})
    digest.update(repr(reasons).encode())
    places = {reason: place for place, reason in enumerate(reasons, 1)}
    runs = []
    for direction, groups in filled:
        for verdicts, identities in sorted(groups.items()):
            values = tuple((ports, MapValue(deny, places[reason])) for ports, deny, reason in verdicts)
            numbers = array("L", identities)
            runs.append(Run(direction, numbers, values))
            digest.update(b"%d %d:%s" % (direction, len(numbers), numbers.tobytes()))
            for (protocol, port, length), (deny, rule, _) in values:
                digest.update(b"%d %d/%d %d %d;" % (protocol, port, length, deny, rule))
    return Compiled(enforced, Entries(runs), blocks, tuple(reasons), digest.hexdigest())
