"""Entries of a policy map, kept by the identities that share them: a few numbers instead of a hundred
thousand keys."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from podwire.policy.model import Direction, Identity, MapKey, MapValue
from podwire.policy.ports import PortPrefix


class Run(NamedTuple):
    """Identities for which the same holds in one direction. Each identity is in one run per direction."""

    direction: Direction
    identities: Sequence[Identity]
    """Ascending."""
    values: tuple[tuple[PortPrefix, MapValue], ...]
    """Sorted, no ports twice."""


class Entries(Mapping[MapKey, MapValue]):
    """A mapping like any other; ``runs`` is the quick way through it."""

    __slots__ = ("_places", "_size", "runs")

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = tuple(runs)
        """In an order that depends on the contents only."""
        self._size = sum(len(run.identities) * len(run.values) for run in self.runs)
        self._places: dict[tuple[Direction, Identity], dict[PortPrefix, MapValue]] | None = None

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[MapKey]:
        return (key for key, _ in self.items())

    def __getitem__(self, key: MapKey) -> MapValue:
        if self._places is None:
            self._places = {}
            for run in self.runs:
                values = dict(run.values)
                self._places.update(((run.direction, identity), values) for identity in run.identities)
        values = self._places.get((key.direction, key.identity), {})
        try:
            return values[PortPrefix(key.protocol, key.port, key.port_prefix)]
        except KeyError:
            raise KeyError(key) from None

    def items(self) -> ItemsView[MapKey, MapValue]:
        return _Items(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Entries):
            return self.runs == other.runs
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self.items())})"


def runs_of(entries: Mapping[MapKey, MapValue]) -> Iterable[Run]:
    """Return the quick way through any entries, a run for each where they are kept otherwise."""
    if isinstance(entries, Entries):
        return entries.runs
    return (
        Run(key.direction, (key.identity,), ((PortPrefix(key.protocol, key.port, key.port_prefix), value),))
        for key, value in entries.items()
    )


class _Items(ItemsView[MapKey, MapValue]):
    __slots__ = ()
    _mapping: Entries

    def __iter__(self) -> Iterator[tuple[MapKey, MapValue]]:
        for direction, identities, values in self._mapping.runs:
            for (protocol, port, length), value in values:
                for identity in identities:
                    yield MapKey(direction, identity, protocol, port, length), value
