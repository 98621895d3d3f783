"""Which policy is under which number: makes maps for policies, shares them, frees them, and finds out what
somebody else changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from podwire.agent.policy_maps import PolicyMaps
from podwire.agent.policy_numbers import Meanings, Numbers
from podwire.agent.policy_tables import CLOSED, LARGEST, TOO_LARGE, Contents, contents
from podwire.policy.model import Compiled

log = logging.getLogger(__name__)

NEVER = float("inf")
GRACE = 2.0
"""Seconds from an endpoint's new number to the old one being free: no program runs that long."""
LOOK_ENTRIES = 20_000
"""Entries of policy maps read again in one look."""
NO_NUMBER = "all policy numbers are in use: run pods with fewer different policies on this node"


@dataclass(slots=True)
class Counts:
    """What was done so far."""

    maps_written: int = 0
    entries_written: int = 0
    repaired: int = 0
    """Maps that somebody else had changed."""


@dataclass(slots=True)
class _Held:
    """A policy map of ours."""

    number: int
    compiled: Compiled
    entries: int
    retired: float = 0.0
    """When nobody needed it any more, by the monotonic clock; 0 while somebody does."""


class Installed:
    """Policies by digest, and their numbers. Not thread-safe. Methods raise BpfError or DatapathError when
    the maps cannot be reached at all."""

    def __init__(self, maps: PolicyMaps) -> None:
        """Looks at what an earlier agent left: it is taken over where it is wanted, and stays otherwise until
        ``release``."""
        maps.prepare()
        self.counts = Counts()
        self.meanings = Meanings()
        self._maps = maps
        self._inherited = {_fingerprint(value): number for number, value in maps.inherited().items()}
        self._numbers = Numbers(maps.numbers, self._inherited.values())
        self._leftover = dict.fromkeys(self._inherited.values(), NEVER)
        """Numbers that are not ours, and when they may be freed."""
        self._held: dict[str, _Held] = {}
        self._looked = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def inherited(self) -> bool:
        """Is there anything of an earlier agent that was neither taken over nor freed?"""
        return bool(self._leftover)

    def number(self, digest: str) -> int:
        """Of a policy that ``make`` did not say a reason for."""
        return self._held[digest].number

    # -- putting in place --------------------------------------------------------------------------

    def make(self, wanted: Mapping[str, Compiled]) -> tuple[dict[str, str], bool]:
        """Have a map for each digest. Returns the reason for each that has none, and whether another attempt
        may help."""
        failures: dict[str, str] = {}
        fresh: dict[int, Contents] = {}
        digests: dict[int, str] = {}
        again = False
        for digest, value in wanted.items():
            held = self._held.get(digest)
            if held is not None:
                held.retired = 0.0
                continue
            if value.size > LARGEST:
                failures[digest] = TOO_LARGE
                continue
            entries = contents(value)
            number = self._inherited.pop(_fingerprint(entries), None)
            if number is not None:
                self._leftover.pop(number, None)
                self._hold(digest, number, value, len(entries))
                continue
            number = self._numbers.take()
            if number is None:
                failures[digest], again = NO_NUMBER, True
                continue
            fresh[number], digests[number] = entries, digest
        written = self._maps.write(fresh)
        for number, digest in digests.items():
            if number in written.maps:
                self._hold(digest, number, wanted[digest], len(fresh[number]))
                self.counts.maps_written += 1
                self.counts.entries_written += len(fresh[number])
            else:
                self._numbers.give_back(number)
                failures[digest], again = written.failures.get(number, "it could not be written"), True
        return failures, again

    def _hold(self, digest: str, number: int, value: Compiled, entries: int) -> None:
        self._held[digest] = _Held(number, value, entries)
        self.meanings.add(number, value.reasons, time.monotonic_ns())

    # -- freeing -----------------------------------------------------------------------------------

    def retire(self, used: Collection[int]) -> None:
        """Note that the kernel's endpoints have these numbers and no others."""
        now = time.monotonic()
        for held in self._held.values():
            if held.number not in used and not held.retired:
                held.retired = now

    def release(self) -> None:
        """What an earlier agent left is not used any more: programs that may be running aside."""
        self._leftover = dict.fromkeys(self._leftover, time.monotonic() + GRACE)

    def due(self) -> float:
        """When there is something to free, by the monotonic clock."""
        retired = (held.retired + GRACE for held in self._held.values() if held.retired)
        return min([NEVER, *self._leftover.values(), *retired])

    def tidy(self) -> None:
        """Free what has not been needed for a while."""
        now = time.monotonic()
        over = {d: held for d, held in self._held.items() if held.retired and now >= held.retired + GRACE}
        left = [number for number, when in self._leftover.items() if now >= when]
        numbers = [*(held.number for held in over.values()), *left]
        if not numbers:
            return
        self._maps.free(numbers)
        for digest in over:
            del self._held[digest]
        for number in left:
            del self._leftover[number]
        for number in numbers:
            self._numbers.give_back(number)
        if left:
            self._inherited = {}

    # -- what somebody else changed ----------------------------------------------------------------

    def look(self) -> bool:
        """Find maps that are not what was written: they are given up, to be made anew under other numbers by
        the next ``make``. True when there are any."""
        digests = {held.number: digest for digest, held in self._held.items()}
        broken = set(self._maps.replaced([CLOSED, *digests])) | self._changed(digests)
        strays = self._maps.strays([*digests, *self._leftover])
        for number in strays:
            self._numbers.mark(number)
        if CLOSED in broken:
            self._maps.prepare()
        given_up = broken - {CLOSED}
        for number in given_up:
            del self._held[digests[number]]
        # Endpoints have them until their new ones are there.
        soon = time.monotonic() + GRACE
        self._leftover.update(dict.fromkeys([*given_up, *strays], soon))
        if broken:
            log.warning("%d policy maps were changed by somebody else and are made anew", len(broken))
            self.counts.repaired += len(broken)
        return bool(broken)

    def _changed(self, digests: Mapping[int, str]) -> set[int]:
        """Of some maps, taking turns: those whose entries are not what was written."""
        changed = {CLOSED} if self._maps.differs(CLOSED, {}) else set()
        budget = LOOK_ENTRIES
        for number in sorted(digests, key=lambda number: (number <= self._looked, number)):
            held = self._held[digests[number]]
            budget -= held.entries
            self._looked = number
            if self._maps.differs(number, contents(held.compiled)):
                changed.add(number)
            if budget <= 0:
                break
        return changed


def _fingerprint(entries: Contents) -> int:
    """Stands for the contents of a map, within this process."""
    return hash(frozenset(entries.items()))
