"""Prefixes of addresses: which CIDR identities a rule means, and the borders that ipBlocks draw."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from typing import TypeAlias, TypeVar

from podwire.policy.model import Block, Cidr, Rule, Service

T = TypeVar("T")
EVERYWHERE = IPv4Network("0.0.0.0/0")
ADDRESS_BITS = 32
Interval: TypeAlias = tuple[int, int]
"""First address and length of a prefix; sorts a prefix right before those within it."""


def interval(prefix: IPv4Network) -> Interval:
    """Return a prefix as plain numbers, which compare much faster."""
    return int(prefix.network_address), prefix.prefixlen


def network(of: Interval) -> IPv4Network:
    """Return the prefix that ``interval`` was made from."""
    return IPv4Network(of)


def wanted_prefixes(rules: Iterable[Rule]) -> set[IPv4Network]:
    """Return the prefixes that need an identity so that the CIDR rules of ``rules`` can be told apart.

    Those of services are not among them (``named_services``). Excepted prefixes need one, too: the datapath
    knows an address by its longest prefix alone. 0.0.0.0/0 needs none, it is the world."""
    wanted = set()
    for rule in rules:
        for entry in rule.entries:
            for peer in entry.peers or ():
                if isinstance(peer, Cidr):
                    wanted.add(peer.prefix)
                    wanted.update(peer.excepted)
    wanted.discard(EVERYWHERE)
    return wanted


def named_services(rules: Iterable[Rule]) -> set[Service]:
    """Return all peers of ``rules`` that are services; their addresses may need identities, too."""
    return {
        peer
        for rule in rules
        for entry in rule.entries
        for peer in entry.peers or ()
        if isinstance(peer, Service)
    }


class CidrIndex:
    """Places (slots) of the identities of prefixes, found by where the prefixes lie."""

    def __init__(self) -> None:
        self._slots: dict[Interval, int] = {}
        self._sorted: list[Interval] = []
        self._within: dict[Interval, int] = {}

    def add(self, prefix: Interval, slot: int) -> None:
        """Book a prefix that is not there yet."""
        self._slots[prefix] = slot
        self._within.clear()
        insort(self._sorted, prefix)

    def remove(self, prefix: Interval) -> None:
        """Forget a prefix that is there."""
        del self._slots[prefix]
        self._within.clear()
        del self._sorted[bisect_left(self._sorted, prefix)]

    def within(self, prefix: Interval) -> int:
        """Return the slots of all prefixes that lie in ``prefix``, itself included, as bits."""
        known = self._within.get(prefix)
        if known is not None:
            return known
        first, length = prefix
        start = bisect_left(self._sorted, prefix)
        last = first + (1 << (ADDRESS_BITS - length)) - 1
        end = bisect_right(self._sorted, (last, ADDRESS_BITS), lo=start)
        bits = 0
        for inner in self._sorted[start:end]:
            bits |= 1 << self._slots[inner]
        self._within[prefix] = bits
        return bits

    def select(self, peer: Cidr) -> int:
        """Return the slots of the prefixes whose addresses ``peer`` means, as bits."""
        bits = self.within(interval(peer.prefix))
        for excepted in peer.excepted:
            bits &= ~self.within(interval(excepted))
        return bits


def covering(prefix: Interval) -> Iterator[Interval]:
    """Yield all prefixes that contain ``prefix``, itself first, 0.0.0.0/0 last."""
    first, length = prefix
    for shorter in range(length, -1, -1):
        free = ADDRESS_BITS - shorter
        yield first >> free << free, shorter


def divide(blocks: Sequence[Block]) -> dict[Interval, int]:
    """Draw the borders of all ``blocks``: each prefix with the places in ``blocks`` that cover it, as bits.

    The longest prefix that contains an address tells exactly which blocks mean it; no bits are a hole that
    an except made. An except that swallows its block leaves nothing of it."""
    edges: dict[Interval, list[int]] = {}
    for place, block in enumerate(blocks):
        if any(block.prefix.subnet_of(excepted) for excepted in block.excepted):
            continue
        edges.setdefault(interval(block.prefix), [0, 0])[0] |= 1 << place
        for excepted in block.excepted:
            edges.setdefault(interval(excepted), [0, 0])[1] |= 1 << place
    result: dict[Interval, int] = {}
    around: list[tuple[int, int]] = []
    for prefix in sorted(edges):
        first, length = prefix
        while around and around[-1][0] < first:
            around.pop()
        outer = around[-1][1] if around else 0
        entered, left = edges[prefix]
        inner = (outer | entered) & ~left
        around.append((first + (1 << (ADDRESS_BITS - length)) - 1, inner))
        result[prefix] = inner
    return result


def needed(borders: Iterable[tuple[Interval, T]], outside: T) -> list[tuple[Interval, T]]:
    """Return sorted ``borders`` without those that change nothing: what they say is said around them."""
    result: list[tuple[Interval, T]] = []
    around: list[tuple[int, T]] = []
    for (first, length), value in borders:
        while around and around[-1][0] < first:
            around.pop()
        if value != (around[-1][1] if around else outside):
            result.append(((first, length), value))
            around.append((first + (1 << (ADDRESS_BITS - length)) - 1, value))
    return result
