"""How a set of labels gets its number, and how a number becomes free again: the steps, apart from how they
reach the API. Pure.

Numbers are names of objects, so the API itself decides between agents that want the same one: the first that
creates the object has it. The number follows from the labels, so agents that see the same labels at the same
time try the same one.

An identity that nobody uses is deleted after a while, provided that nobody touched it since it was last
looked at. Whoever begins to use an idle one touches it first. So either the touch comes first, and the
deletion is refused; or the deletion does, and the touch finds nothing: the labels are numbered anew."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from podwire.agent.identity_objects import IdentityObject
from podwire.policy.identity import candidates
from podwire.policy.model import Labels

GRACE = 900.0
"""Seconds without use after which an identity is deleted."""
JITTER = 300.0
"""Up to so many seconds more: one agent deletes, the others see it gone."""
_SAME_NUMBER = 5
"""Attempts at a number that comes and goes."""


@dataclass(frozen=True, slots=True)
class Create:
    """Make the object. Answer: it, or None when there is one of this number."""

    number: int
    labels: Labels


@dataclass(frozen=True, slots=True)
class Touch:
    """Change the object's version. Answer: what it is now, or None when it is gone."""

    number: int


Step: TypeAlias = Create | Touch
Steps: TypeAlias = Generator[Step, "IdentityObject | None", "IdentityObject | None"]
"""Yields steps, is sent their answers, returns the identity; None when no number is left."""


def choose(labels: Labels, present: int = 0) -> Steps:
    """Have a number for ``labels``. ``present``: the one that they are believed to have, or had; 0 = none."""
    if present:
        found = yield Touch(present)
        if found is not None and found.labels == labels:
            return found
    for number in itertools.chain([present] if present else [], candidates(labels)):
        for _ in range(_SAME_NUMBER):
            # What another agent made is touched as well: it may have been idle for long.
            found = (yield Create(number, labels)) or (yield Touch(number))
            if found is not None:
                break
        if found is not None and found.labels == labels:
            return found
    return None


class Garbage:
    """Which identities have been idle for long. Not thread-safe."""

    def __init__(self) -> None:
        self._idle: dict[int, tuple[str, float]] = {}

    def look(
        self, now: float, identities: Iterable[IdentityObject], used: Collection[int]
    ) -> list[IdentityObject]:
        """Those to delete now, in the version that was idle all the time. ``now``: seconds of a clock that
        never goes back; ``used``: numbers of endpoints anywhere in the cluster."""
        before, self._idle = self._idle, {}
        due = []
        for item in identities:
            if item.number in used:
                continue
            version, deadline = before.get(item.number, ("", 0.0))
            if version != item.version:
                version, deadline = item.version, now + GRACE + random.uniform(0, JITTER)  # noqa: S311
            self._idle[item.number] = (version, deadline)
            if now >= deadline:
                due.append(item)
        return due
