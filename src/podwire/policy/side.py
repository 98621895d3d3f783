"""What rules say together about one direction of one subject."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from podwire.policy.cidr import Interval, divide, needed
from podwire.policy.grants import Grants, meet
from podwire.policy.identity import HOST, UNKNOWN
from podwire.policy.model import Block, Direction, Identity, Subject
from podwire.policy.ports import EVERYTHING, PORT_BITS, Grant, PortPrefix, Verdicts, normalise
from podwire.policy.prepared import PreparedEntry, PreparedRule
from podwire.policy.world import World

EVERYBODY: Identity = UNKNOWN
"""In a policy map's key."""
ALLOW_LOCALHOST = "reserved/allow-localhost"
"""Reason of what lets the node reach its own pods."""
NOT_ENFORCED = "reserved/not-enforced"
"""Reason of what keeps a direction open that no rule closes."""


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of a policy map, before reasons and classes have numbers."""

    direction: Direction
    enforced: bool
    groups: tuple[tuple[Verdicts, Sequence[Identity]], ...]
    """Sorted; identities ascending, each once."""
    borders: tuple[tuple[Interval, Verdicts], ...]
    """Of blocks; sorted. No verdicts: a hole."""


def compile_side(
    direction: Direction, enforced: bool, subject: Subject, rules: Iterable[PreparedRule], world: World
) -> Side:
    """Return what ``rules``, which all select ``subject``, come to in one direction."""
    side = _Side(direction, enforced, subject, world)
    for prepared in rules:
        for entry in prepared.entries:
            if entry.direction is direction:
                side.add(entry)
    return side.finish()


@dataclass(slots=True)
class _Side:
    """One direction while its grants are collected."""

    direction: Direction
    enforced: bool
    subject: Subject
    world: World
    everybody: list[Grant] = field(default_factory=list)
    peers: defaultdict[Grant, int] = field(default_factory=lambda: defaultdict(int))
    """Identities that have each grant, as bits."""
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
                self.peers[grant] |= bits
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
                    self.peers[Grant(ports, entry.deny, entry.reason)] |= meant

    def finish(self) -> Side:
        """Return everything that was taken in."""
        if not self.enforced:
            self.everybody.append(Grant((EVERYTHING,), False, NOT_ENFORCED))
        elif self.direction is Direction.INGRESS:
            self.peers[Grant((EVERYTHING,), False, ALLOW_LOCALHOST)] |= self.world.slot_bit(HOST)
        groups = self._peers()
        if self.everybody:
            everybody = normalise(self.everybody)
            groups[everybody] = array("L", [EVERYBODY, *groups.get(everybody, ())])
        return Side(self.direction, self.enforced, tuple(sorted(groups.items())), self._borders())

    def _peers(self) -> dict[Verdicts, Sequence[Identity]]:
        order = sorted(self.peers, key=_by_reason)
        grants = Grants(order)
        terms: defaultdict[int, int] = defaultdict(int)
        served: defaultdict[tuple[bool, tuple[PortPrefix, ...]], int] = defaultdict(int)
        for place, grant in enumerate(order):
            # Who has the same from a rule that is named first needs it no more.
            left = self.peers[grant] & ~served[grant.deny, grant.ports]
            served[grant.deny, grant.ports] |= left
            terms[left] |= 1 << place
        together: defaultdict[Verdicts, int] = defaultdict(int)
        for members, identities in meet(terms).items():
            together[grants.verdicts(members)] |= identities
        return {verdicts: self.world.numbers(identities) for verdicts, identities in together.items()}

    def _borders(self) -> tuple[tuple[Interval, Verdicts], ...]:
        pairs = sorted(self.blocks, key=lambda pair: _by_reason(pair[1]))
        grants = Grants([grant for _, grant in pairs])
        borders = divide([block for block, _ in pairs])
        said = ((prefix, grants.verdicts(members)) for prefix, members in sorted(borders.items()))
        return tuple(needed(said, outside=()))


def _by_reason(grant: Grant) -> tuple[str, Grant]:
    return grant.reason, grant
