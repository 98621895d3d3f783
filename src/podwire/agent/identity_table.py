"""Identities of the cluster by number and by labels. Pure; not thread-safe."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from podwire.agent.identity_objects import IdentityObject
from podwire.kube.reflector import Change
from podwire.policy import labels as security
from podwire.policy.identity import candidates, is_label_identity
from podwire.policy.model import Labels

_ATTEMPTS = 64
"""How far a set of labels with several numbers is searched for the first that it should have."""


class IdentityTable:
    """What the API has. Numbers outside of the cluster's range are left out."""

    def __init__(self) -> None:
        self._objects: dict[int, IdentityObject] = {}
        self._numbers: dict[str, set[int]] = {}
        self._labels: Mapping[int, Labels] = {}
        self._changed = False

    def apply(self, changes: Iterable[Change[IdentityObject]]) -> None:
        for key, item in changes:
            if item is None:
                if key.isascii() and key.isdigit():
                    self.remove(int(key))
            else:
                self.put(item)

    def put(self, item: IdentityObject) -> None:
        if not is_label_identity(item.number):
            return
        before = self._objects.get(item.number)
        self._objects[item.number] = item
        if before is not None and before.labels == item.labels:
            return
        self._forget_labels(before)
        self._numbers.setdefault(security.text(item.labels), set()).add(item.number)
        self._changed = True

    def remove(self, number: int) -> None:
        self._forget_labels(self._objects.pop(number, None))

    def _forget_labels(self, item: IdentityObject | None) -> None:
        if item is None:
            return
        self._changed = True
        text = security.text(item.labels)
        self._numbers[text].discard(item.number)
        if not self._numbers[text]:
            del self._numbers[text]

    def number_of(self, labels: Labels) -> int:
        """The number of these labels; 0 when they have none. Of several, the one that every node prefers."""
        found = self._numbers.get(security.text(labels), set())
        if len(found) < 2:
            return next(iter(found), 0)
        first = itertools.islice(candidates(labels), _ATTEMPTS)
        return next((number for number in first if number in found), min(found))

    def get(self, number: int) -> IdentityObject | None:
        return self._objects.get(number)

    def objects(self) -> Sequence[IdentityObject]:
        return tuple(self._objects.values())

    def labels(self) -> Mapping[int, Labels]:
        """Number -> labels; the same object until something changes."""
        if self._changed:
            self._labels = {number: item.labels for number, item in self._objects.items()}
            self._changed = False
        return self._labels
