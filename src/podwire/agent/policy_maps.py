"""The datapath's policy maps: the only code that writes them.

``podwire_policies`` is a hash of maps: policy number -> trie. A trie is filled before it is put under a
number and never written to again, so what a number stands for is complete at every moment. Putting maps in
place waits for programs that are running (an RCU grace period, some milliseconds), once per call where the
kernel takes batches; so whoever has many writes them together."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from podwire.agent.policy_tables import (
    CLOSED,
    FIRST_NUMBER,
    KEY_SIZE,
    LARGEST,
    NO_PREALLOC,
    POLICIES,
    TOO_LARGE,
    VALUE_SIZE,
    Contents,
    size_for,
)
from podwire.bpf import BpfError, Map, MapType

log = logging.getLogger(__name__)

OpenMap = Callable[[str], Map]
"""Opens a map anew for each use: an upgrade may have put another one in its place."""


@dataclass(slots=True)
class Written:
    """What a write did."""

    maps: set[int] = field(default_factory=set)
    """Numbers that are complete now."""
    failures: dict[int, str] = field(default_factory=dict)
    """Number -> why it has no map."""


class PolicyMaps:
    """The maps by policy number. Not thread-safe: one thread changes them."""

    def __init__(
        self,
        open_map: OpenMap,
        hurried: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """``hurried`` shortens the kernel's wait while maps are put in place, where it can."""
        self._open = open_map
        self._hurried = hurried
        self._ids: dict[int, int] = {}

    @property
    def numbers(self) -> int:
        """How many policy numbers there are, those with a meaning of their own included. Raises BpfError or
        DatapathError."""
        return self._open(POLICIES).info.max_entries

    def prepare(self) -> None:
        """Have a map under the number that stands for "closed", and look at what else is there. Raises
        BpfError or DatapathError."""
        self._ids = self._present()
        if CLOSED in self._ids and not self.read(CLOSED):
            return
        written = self.write({CLOSED: {}})
        if written.failures:
            raise BpfError("make", "the policy map of closed endpoints", 0, written.failures[CLOSED])

    def inherited(self) -> dict[int, Contents]:
        """What each number stands for, as an earlier agent left it. Raises BpfError or DatapathError."""
        closed = self._ids.get(CLOSED)
        return {
            number: self.read(number)
            for number, map_id in sorted(self._ids.items())
            if number >= FIRST_NUMBER and map_id != closed
        }

    def all(self) -> dict[int, Contents]:
        """What every number stands for that has a map. Raises BpfError or DatapathError."""
        return {number: self.read(number) for number in sorted(self._present())}

    def read(self, number: int) -> Contents:
        """The entries under a number; none when it has no map. Raises BpfError or DatapathError."""
        map_id = self._open(POLICIES).get(number)
        if not map_id:
            return {}
        with Map.by_id(map_id) as inner:
            return dict(inner.raw_items())

    def write(self, wanted: Mapping[int, Contents]) -> Written:
        """Give each number its map. Numbers that could not get theirs keep what they had, which is nothing
        for one that is fresh.

        Raises BpfError or DatapathError when the maps cannot be reached at all."""
        done = Written()
        outer = self._open(POLICIES)
        with contextlib.ExitStack() as stack:
            made: dict[int, Map] = {}
            for number, entries in wanted.items():
                try:
                    made[number] = stack.enter_context(_filled(entries))
                except BpfError as error:
                    done.failures[number] = explain(error, len(entries))
            self._put(outer, made, done)
        return done

    def free(self, numbers: Iterable[int]) -> None:
        """Let numbers stand for "closed" again. No endpoint may have one of them any more.

        Raises BpfError or DatapathError."""
        chosen = [number for number in numbers if number >= FIRST_NUMBER and number in self._ids]
        if not chosen:
            return
        outer = self._open(POLICIES)
        closed = outer.get(CLOSED)
        if not closed:
            return
        done = Written()
        with Map.by_id(closed) as empty:  # one batch; removing them would wait for programs once for each
            self._put(outer, dict.fromkeys(chosen, empty), done)
        for number in done.maps:
            self._ids.pop(number, None)
        for number, reason in done.failures.items():
            log.error("policy number %d is not free yet: %s", number, reason)

    def strays(self, mine: Iterable[int]) -> list[int]:
        """Numbers that have a map of their own but are not among ``mine``. Raises BpfError or
        DatapathError."""
        present = self._present()
        closed = present.get(CLOSED)
        known = {CLOSED, *mine}
        found = [n for n, map_id in present.items() if n not in known and map_id != closed]
        self._ids.update({number: present[number] for number in found})
        return found

    def replaced(self, mine: Iterable[int]) -> list[int]:
        """Those of ``mine`` under which there is not the map that was put there. Raises BpfError or
        DatapathError."""
        present = self._present()
        return [number for number in mine if present.get(number, 0) != self._ids.get(number)]

    def differs(self, number: int, wanted: Contents) -> bool:
        """Has somebody changed the entries under a number? Raises BpfError or DatapathError."""
        return self.read(number) != wanted

    # -- parts -------------------------------------------------------------------------------------

    def _present(self) -> dict[int, int]:
        return {number: map_id for number, map_id in self._open(POLICIES).items() if map_id}

    def _put(self, outer: Map, made: Mapping[int, Map], done: Written) -> None:
        """Put maps in place: all at once where the kernel can, else and after a failure one by one."""
        if not made:
            return
        with self._hurried():
            if len(made) > 1:
                try:
                    outer.raw_set_many(
                        [(_number(number), _number(inner.fd)) for number, inner in made.items()]
                    )
                except BpfError:
                    pass  # find out below which it is about
                else:
                    self._note(made, done)
                    return
            for number, inner in made.items():
                try:
                    outer.set_inner(number, inner)
                except BpfError as error:
                    done.failures[number] = str(error)
                else:
                    self._note({number: inner}, done)

    def _note(self, made: Mapping[int, Map], done: Written) -> None:
        done.maps |= made.keys()
        self._ids.update({number: inner.info.id for number, inner in made.items()})


def _filled(entries: Contents) -> Map:
    """A trie that holds ``entries``. Raises BpfError."""
    if len(entries) > LARGEST:
        raise BpfError("make", "a policy map", errno.E2BIG)
    inner = Map.create(
        MapType.LPM_TRIE, "podwire_policy", key_size=KEY_SIZE, value_size=VALUE_SIZE,
        max_entries=size_for(len(entries)), flags=NO_PREALLOC,
    )  # fmt: skip
    try:
        inner.raw_set_many(entries.items())
    except BpfError:
        inner.close()
        raise
    return inner


def explain(error: BpfError, entries: int) -> str:
    """Why there is no policy map for so many entries, and the way out."""
    if error.errno in (errno.E2BIG, errno.ENOSPC):
        return TOO_LARGE
    if error.errno == errno.ENOMEM:
        return f"the kernel has no memory for a policy map of {entries} entries"
    return str(error)


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)
