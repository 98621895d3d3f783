"""Which policy numbers are in use, and what they stood for a while ago. Pure.

A number that was given back is the last to be given again, so that an event is never explained by a policy
that came after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from podwire.agent.policy_tables import FIRST_NUMBER

REMEMBERED = 4000
"""Meanings of numbers that are kept for events that are still to be explained."""


class Meaning(NamedTuple):
    """What a policy number stood for."""

    since: int
    """CLOCK_MONOTONIC, in nanoseconds: from shortly before its first packet was judged by it."""
    reasons: tuple[str, ...]


class Numbers:
    """Policy numbers from ``FIRST_NUMBER`` up to ``end``, which is not one any more."""

    def __init__(self, end: int, used: Iterable[int] = ()) -> None:
        self._end = end
        self._used = set(used)
        self._next = FIRST_NUMBER

    @property
    def free(self) -> int:
        return self._end - FIRST_NUMBER - len(self._used)

    def take(self) -> int | None:
        """A number that nobody has; None when there is none left."""
        for candidate in self._from_next():
            if candidate not in self._used:
                self._used.add(candidate)
                self._next = candidate + 1
                return candidate
        return None

    def give_back(self, number: int) -> None:
        self._used.discard(number)

    def mark(self, number: int) -> None:
        """Never give this one: somebody has it."""
        self._used.add(number)

    def _from_next(self) -> Iterator[int]:
        yield from range(self._next, self._end)
        yield from range(FIRST_NUMBER, min(self._next, self._end))


class Meanings:
    """What numbers stood for, by the time of an event."""

    def __init__(self, keep: int = REMEMBERED) -> None:
        self._by_number: dict[int, list[Meaning]] = {}
        self._order: deque[int] = deque()
        self._keep = keep

    def add(self, number: int, reasons: tuple[str, ...], now: int) -> None:
        """From ``now`` on the number stands for this."""
        self._by_number.setdefault(number, []).append(Meaning(now, reasons))
        self._order.append(number)
        while len(self._order) > self._keep:
            oldest = self._order.popleft()
            meanings = self._by_number[oldest]
            del meanings[0]
            if not meanings:
                del self._by_number[oldest]

    def reason(self, number: int, rule: int, when: int) -> str:
        """The sentence for a rule of a policy at a time; empty when it is not known."""
        for meaning in reversed(self._by_number.get(number, [])):
            if meaning.since <= when:
                return meaning.reasons[rule - 1] if 0 < rule <= len(meaning.reasons) else ""
        return ""
