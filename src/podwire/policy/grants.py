"""Which grants meet at one identity, and what they say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from podwire.policy.label_index import bit_positions
from podwire.policy.ports import Grant, PortPrefix, Verdicts, normalise

FEW = 8
"""Terms for fewer identities are handled one identity at a time."""


class Grants:
    """A list of grants, in the order of their reasons. Sets of them are the bits of their places."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        # The order lets the lowest bit of those that say the same name the reason.
        self._grants = grants
        self._alike: defaultdict[tuple[bool, tuple[PortPrefix, ...]], int] = defaultdict(int)
        for place, grant in enumerate(grants):
            self._alike[grant.deny, grant.ports] |= 1 << place
        self._verdicts: dict[int, Verdicts] = {}

    def verdicts(self, members: int) -> Verdicts:
        """Return what a set of grants means; equal sets give the same object."""
        known = self._verdicts.get(members)
        if known is None:
            known = self._verdicts[members] = normalise(self._needed(members))
        return known

    def _needed(self, members: int) -> list[Grant]:
        if members.bit_count() <= len(self._alike):
            return [self._grants[place] for place in bit_positions(members)]
        found = (alike & members for alike in self._alike.values())
        return [self._grants[(some & -some).bit_length() - 1] for some in found if some]


def meet(terms: Mapping[int, int]) -> dict[int, int]:
    """Find which sets meet where: ``terms`` is identities -> grants, both as bits; the result is the reverse,
    grants -> identities, with every identity once, under all the grants that it has."""
    large: dict[int, int] = {}
    small: defaultdict[int, int] = defaultdict(int)
    for identities, grants in terms.items():
        if identities.bit_count() < FEW:
            for slot in bit_positions(identities):
                small[slot] |= grants
        else:
            large = _split(large, identities, grants)
    singled = reduce(or_, (1 << slot for slot in small), 0)
    result: defaultdict[int, int] = defaultdict(int)
    for grants, identities in large.items():
        for slot in bit_positions(identities & singled):
            small[slot] |= grants
        if rest := identities & ~singled:
            result[grants] |= rest
    for slot, grants in small.items():
        result[grants] |= 1 << slot
    return dict(result)


def _split(groups: dict[int, int], identities: int, grants: int) -> dict[int, int]:
    result: defaultdict[int, int] = defaultdict(int)
    left = identities
    for known, members in groups.items():
        inside = members & identities
        if inside:
            result[known | grants] |= inside
            left &= ~inside
        if outside := members & ~identities:
            result[known] |= outside
    if left:
        result[grants] |= left
    return result
