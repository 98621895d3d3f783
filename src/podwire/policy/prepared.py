"""Rules bound to a world: peers found, ports written as prefixes. Done once, whatever number of subjects."""

from __future__ import annotations

from dataclasses import dataclass

from podwire.policy.model import Block, Direction, Entity, Entry, NamedPort, PortRange, Rule
from podwire.policy.ports import EVERYTHING, PortPrefix, port_prefixes
from podwire.policy.world import EVERYBODY, Selection, World


@dataclass(frozen=True, slots=True, eq=False)
class PreparedEntry:
    """An entry of a rule."""

    direction: Direction
    everybody: bool
    """Whoever the peer is; the other peers do not matter then."""
    selections: tuple[Selection, ...]
    blocks: tuple[Block, ...]
    ports: tuple[PortPrefix, ...]
    named: tuple[NamedPort, ...]
    deny: bool
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRule:
    """A rule; each object is equal to itself only."""

    rule: Rule
    entries: tuple[PreparedEntry, ...]
    selections: frozenset[Selection]
    """Of all its entries: what the meaning of the rule depends on..."""
    names: frozenset[tuple[str, int]]
    """...and the (name, protocol) of the peers' named ports that it depends on."""


def prepare(rule: Rule, world: World) -> PreparedRule:
    """Bind a rule to ``world``. ValueError: the rule says what no policy can, such as an unknown entity."""
    entries = tuple(_prepare(rule, entry, world) for entry in rule.entries)
    return PreparedRule(
        rule,
        entries,
        frozenset(selection for entry in entries for selection in entry.selections),
        frozenset(
            (port.name, port.protocol)
            for entry in entries
            if entry.direction is Direction.EGRESS
            for port in entry.named
        ),
    )


def _prepare(rule: Rule, entry: Entry, world: World) -> PreparedEntry:
    reason = f"{rule.origin.key} {entry.place}".rstrip()
    peers = entry.peers or ()
    blocks = tuple(peer for peer in peers if isinstance(peer, Block))
    if blocks and entry.deny:
        raise ValueError(f"{reason}: an ipBlock cannot deny")
    everybody = entry.peers is None or Entity(EVERYBODY) in peers
    meant = () if everybody else tuple(peer for peer in peers if not isinstance(peer, Block))
    fixed = [port for port in entry.ports or () if isinstance(port, PortRange)]
    return PreparedEntry(
        direction=entry.direction,
        everybody=everybody,
        selections=tuple(world.selection(peer) for peer in meant),
        blocks=blocks,
        ports=(EVERYTHING,)
        if entry.ports is None
        else tuple(sorted({prefix for port in fixed for prefix in port_prefixes(port)})),
        named=tuple(port for port in entry.ports or () if isinstance(port, NamedPort)),
        deny=entry.deny,
        reason=reason,
    )
