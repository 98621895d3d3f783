"""Which identities a selector means, by sets of bits: one bit for each identity, in a Python integer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import compress, count

from podwire.policy.labels import ANY, key, split
from podwire.policy.model import Labels, Operator, Requirement, Selector

DENSE = 8
"""From every eighth bit on, going through all of them is quicker than looking for the next."""


def spellings(written: str) -> tuple[str, str]:
    """The key itself and the one that stands for it whatever its source."""
    return written, key(ANY, split(written)[1])


def bit_positions(bits: int) -> Iterator[int]:
    """Yield the positions of all ones in ``bits``, ascending."""
    digits = bin(bits)[:1:-1]
    if bits.bit_count() * DENSE > len(digits):
        yield from compress(count(), map("1".__eq__, digits))
        return
    at = digits.find("1")
    while at >= 0:
        yield at
        at = digits.find("1", at + 1)


class LabelIndex:
    """Labels of identities, each identity at a place of its own (``slot``)."""

    def __init__(self) -> None:
        self.everything = 0
        """All slots in use."""
        self._keys: defaultdict[str, int] = defaultdict(int)
        self._values: defaultdict[tuple[str, str], int] = defaultdict(int)

    def add(self, slot: int, labels: Labels) -> None:
        """Book an identity. The slot must be free."""
        bit = 1 << slot
        self.everything |= bit
        for name, value in labels.items():
            for spelling in spellings(name):
                self._keys[spelling] |= bit
                self._values[spelling, value] |= bit

    def remove(self, slot: int, labels: Labels) -> None:
        """Free a slot; ``labels`` are those it was booked with."""
        bit = 1 << slot
        self.everything &= ~bit
        for name, value in labels.items():
            for spelling in spellings(name):
                self._keys[spelling] &= ~bit
                if not self._keys[spelling]:
                    del self._keys[spelling]
                # Two sources may have the same key and value: the first removal did it for both.
                left = self._values[spelling, value] & ~bit
                self._values[spelling, value] = left
                if not left:
                    del self._values[spelling, value]

    def having(self, name: str) -> int:
        """Return the identities that have a label with this key, whatever its value."""
        return self._keys.get(name, 0)

    def select(self, selector: Selector) -> int:
        """Return the identities that a selector matches."""
        bits = self.everything
        for requirement in selector.requirements:
            bits &= self._require(requirement)
            if not bits:
                break
        return bits

    def _require(self, requirement: Requirement) -> int:
        operator = requirement.operator
        if operator is Operator.EXISTS:
            return self.having(requirement.key)
        if operator is Operator.DOES_NOT_EXIST:
            return ~self.having(requirement.key)
        bits = 0
        for value in requirement.values:
            bits |= self._values.get((requirement.key, value), 0)
        return bits if operator is Operator.IN else ~bits
