"""Numbered lists of backends. A list never changes: other backends are another list, with its own number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from podwire.service.changes import Changes
from podwire.service.model import BackendList


class Placed(NamedTuple):
    """Where wanted lists went."""

    numbers: list[int]
    """In the order they were wanted in; 0 for an empty one."""
    no_room: int
    """Backends that were left out because the table is full."""
    too_long: int
    """Backends that were left out because one list cannot hold more."""


class Lists:
    """All lists, and how much room is left."""

    def __init__(self, first: int, capacity: int, longest: int) -> None:
        self.contents: dict[int, BackendList] = {}
        self.used = 0
        """Entries of all lists together; at most ``capacity``."""
        self._next = first
        self._capacity = capacity
        self._longest = longest

    def swap(self, old: Iterable[int], wanted: Sequence[BackendList], changes: Changes) -> Placed:
        """Put ``wanted`` in the place of the lists ``old``; equal contents keep their number."""
        held = {self.contents[number]: number for number in old if number}
        gone = [content for content in held if content not in wanted]
        room = self._capacity - self.used + sum(len(content.backends) for content in gone)
        numbers: list[int] = []
        no_room = too_long = 0
        for content in wanted:
            if content not in held:
                length = min(len(content.backends), self._longest)
                too_long += len(content.backends) - length
                fitting = min(length, room)
                no_room += length - fitting
                cut = BackendList(content.backends[:fitting], content.maglev)
                if fitting and cut not in held:
                    held[cut] = self._add(cut, changes)
                held[content] = held.get(cut, 0)
                room -= fitting
            numbers.append(held[content])
        for number in {number for number in held.values() if number} - set(numbers):
            self._remove(number, changes)
        return Placed(numbers, no_room, too_long)

    def _add(self, content: BackendList, changes: Changes) -> int:
        number = self._next
        self._next += 1
        self.contents[number] = changes.lists[number] = content
        self.used += len(content.backends)
        return number

    def _remove(self, number: int, changes: Changes) -> None:
        length = len(self.contents.pop(number).backends)
        self.used -= length
        # One that nobody wrote yet needs no removal.
        if changes.lists.pop(number, None) is None:
            changes.removed_lists[number] = length
