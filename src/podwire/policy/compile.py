"""From rules to the contents of one subject's policy map."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache

from podwire.policy.cidr import network
from podwire.policy.entries import Entries, Run
from podwire.policy.identity import CLASS_FIRST, INIT
from podwire.policy.model import BlockKey, Compiled, Direction, Enforcement, Identity, MapValue, Rule, Subject
from podwire.policy.ports import Verdicts
from podwire.policy.prepared import prepare
from podwire.policy.selectors import matches
from podwire.policy.side import Side, compile_side
from podwire.policy.world import World

NO_CLASS: Identity = CLASS_FIRST - 1
"""Class of addresses that an except took out of every block; it has no entries."""
BOTH = frozenset(Direction)


def compile_policy(
    subject: Subject, rules: Iterable[Rule], world: World, enforcement: Enforcement = Enforcement.DEFAULT
) -> Compiled:
    """Return what the policy map of ``subject`` must hold; rules that do not select it are left out.

    Prefixes of CIDR rules count as far as ``world`` has identities for them (``wanted_prefixes``).
    ValueError: a rule says what no policy can, such as an unknown entity."""
    world.refresh()
    selecting = [rule for rule in rules if matches(rule.subject, subject.labels)]
    prepared = [prepare(rule, world) for rule in selecting]
    enforced = enforced_directions(subject, selecting, enforcement)
    if enforcement is Enforcement.NEVER:
        prepared = []
    sides = [
        compile_side(direction, direction in enforced, subject, prepared, world) for direction in Direction
    ]
    return write(sides)


def enforced_directions(
    subject: Subject, rules: Iterable[Rule], enforcement: Enforcement
) -> frozenset[Direction]:
    """Return the directions in which ``subject``, selected by all ``rules``, gets only what they allow."""
    if enforcement is Enforcement.NEVER:
        return frozenset()
    if enforcement is Enforcement.ALWAYS or subject.identity == INIT:
        return BOTH
    return frozenset[Direction]().union(*(rule.default_deny for rule in rules))


def write(sides: Sequence[Side]) -> Compiled:
    """Put both directions together: number reasons and classes. Equal contents get equal numbers."""
    enforced = frozenset(side.direction for side in sides if side.enforced)
    digest = hashlib.sha256(repr(sorted(enforced)).encode())
    places = {reason: place for place, reason in enumerate(_reasons(sides), 1)}
    digest.update(repr(list(places)).encode())
    fresh = itertools.count(CLASS_FIRST)
    blocks: dict[BlockKey, Identity] = {}
    runs: list[Run] = []
    for side in sides:
        classes: dict[Verdicts, Identity] = {(): NO_CLASS}
        for verdicts in sorted({verdicts for _, verdicts in side.borders if verdicts}):
            classes[verdicts] = next(fresh)
        for prefix, verdicts in side.borders:
            blocks[BlockKey(side.direction, network(prefix))] = classes[verdicts]
            digest.update(b"%d %d/%d %d;" % (side.direction, *prefix, classes[verdicts]))
        del classes[()]
        for verdicts, identities in (*side.groups, *((one, (number,)) for one, number in classes.items())):
            values = tuple((ports, _value(deny, places[reason])) for ports, deny, reason in verdicts)
            runs.append(Run(side.direction, identities, values))
            digest.update(b"%d %d:" % (side.direction, len(identities)) + array("L", identities).tobytes())
            for (protocol, port, length), (deny, rule, _) in values:
                digest.update(b"%d %d/%d %d %d;" % (protocol, port, length, deny, rule))
    return Compiled(enforced, Entries(runs), blocks, tuple(places), digest.hexdigest())


@lru_cache(maxsize=4096)
def _value(deny: bool, rule: int) -> MapValue:
    """The same few values fill every map."""
    return MapValue(deny, rule)


def _reasons(sides: Iterable[Side]) -> list[str]:
    said = {verdicts for side in sides for verdicts, _ in side.groups}
    said.update(verdicts for side in sides for _, verdicts in side.borders)
    return sorted({verdict.reason for verdicts in said for verdict in verdicts})
