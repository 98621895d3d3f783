"""Keep the datapath's tables of services equal to what the registry wants.

Two ways to the same end: ``apply`` writes what one change touches, and ``reconcile`` compares everything,
which is how an agent takes over from an earlier one and how it recovers after a failure. In both a frontend
changes over from one complete list of backends to another in a single write, and a list goes only when no
frontend in the kernel uses it: packets find a backend at every moment."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from podwire.agent.service_tables import (
    BACKENDS,
    MEMBERS,
    RANGES,
    SERVICES,
    OpenMap,
    Raw,
    explain,
    frontend_key,
    frontend_key_of,
    frontend_of,
    frontend_value,
    list_entries,
    member_key,
    member_of,
    range_key,
    range_of,
    raw,
    text,
)
from podwire.bpf import BpfError, Map
from podwire.service import model
from podwire.service.changes import Changes
from podwire.service.model import Backend, BackendList, Frontend, FrontendKey

log = logging.getLogger(__name__)

CHUNK = 1000
"""Frontends that are changed over before the lists that they leave are removed."""
K = TypeVar("K")


class Wanted(Protocol):
    """What the tables should hold; a Registry."""

    def frontends(self) -> Mapping[FrontendKey, Frontend]: ...
    def lists(self) -> Mapping[int, BackendList]: ...
    def affinity_members(self) -> Iterator[tuple[int, Backend]]: ...
    def source_ranges(self) -> Iterator[tuple[int, str]]: ...


class Failure(NamedTuple):
    """Something that is not in force."""

    service: int
    """Number of the service port."""
    reason: str


@dataclass(slots=True)
class Outcome:
    """What a run did."""

    failures: list[Failure] = field(default_factory=list)
    written: int = 0
    """Entries, of all tables."""
    removed: int = 0
    released_udp: set[tuple[int, Backend]] = field(default_factory=set)
    """(service number, backend) of UDP frontends that had the backend before and have not now."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What an earlier agent left."""

    first_list: int
    """The lowest number that no list has."""
    known_services: dict[FrontendKey, int]


class ServiceMaps:
    """The tables. Not thread-safe: one thread changes them."""

    def __init__(self, open_map: OpenMap, maglev: MaglevMaps | None = None) -> None:
        """``maglev`` keeps the lookup tables of lists that need one."""
        self._open = open_map
        self._maglev = maglev or NoMaglev()

    def inherited(self) -> Inherited:
        """Look at what is there. Raises DatapathError or BpfError."""
        services = self._frontends()
        used = {n for value in services.values() for n in (value.list, value.external_list)}
        used |= {key["list"] for key, _ in self._open(BACKENDS).items()} | set(self._maglev.numbers())
        return Inherited(max(used, default=0) + 1, {key: value.service for key, value in services.items()})

    # -- one change --------------------------------------------------------------------------------

    def apply(self, changes: Changes) -> Outcome:
        """Write what changed. After failures the tables are safe but not complete: ``reconcile`` later.

        Raises DatapathError or BpfError when the maps cannot be reached at all."""
        outcome = Outcome()
        broken = self._write_lists(changes.lists, outcome)
        self._write_keys(MEMBERS, changes.affinity_members, member_key, outcome)
        self._write_keys(RANGES, changes.source_ranges, range_key, outcome)
        self._write_frontends(changes.frontends, broken, outcome)
        self._delete(SERVICES, map(frontend_key, changes.removed_frontends), outcome)
        self._delete(RANGES, map(range_key, changes.removed_source_ranges), outcome)
        self._delete(MEMBERS, map(member_key, changes.removed_affinity_members), outcome)
        if not outcome.failures:  # else a frontend may still use an old list
            self._delete_lists(changes.removed_lists, outcome)
        return outcome

    # -- everything --------------------------------------------------------------------------------

    def reconcile(self, want: Wanted) -> Outcome:
        """Compare all tables with ``want`` and change what differs.

        Old lists go as soon as their frontends have changed over, so that two generations of all lists need
        not fit side by side. Raises DatapathError or BpfError when the maps cannot be reached at all."""
        return _Reconciliation(self, want).run()

    def looks_intact(self, want: Wanted) -> bool:
        """Are all frontends as they should be, and as many backends there? Takes a tenth of a comparison.

        Raises DatapathError or BpfError."""
        backends = sum(1 for _ in self._open(BACKENDS).raw_items())
        return self._frontends() == want.frontends() and backends == sum(
            len(value.backends) for value in want.lists().values()
        )

    def _frontends(self) -> dict[FrontendKey, Frontend]:
        found: dict[FrontendKey, Frontend] = {}
        for key, value in self._open(SERVICES).items():
            try:
                found[frontend_key_of(key)] = frontend_of(value)
            except ValueError:
                self._open(SERVICES).delete(key)  # of a protocol this version does not know
        return found

    def _lists(self) -> dict[int, Raw]:
        found: dict[int, dict[int, tuple[int, int]]] = {}
        for key, value in self._open(BACKENDS).items():
            found.setdefault(key["list"], {})[key["index"]] = (value["address"], value["port"])
        return {
            name: tuple(entries.get(index, (0, 0)) for index in range(max(entries) + 1))
            for name, entries in found.items()
        }

    # -- writing -----------------------------------------------------------------------------------

    def _write_lists(self, lists: Mapping[int, BackendList], outcome: Outcome) -> dict[int, str]:
        """Returns the reason for each list that is not complete."""
        table = self._open(BACKENDS)
        try:
            outcome.written += table.set_many(
                itertools.chain.from_iterable(
                    list_entries(name, item.backends) for name, item in lists.items()
                )
            )
            broken: dict[int, str] = {}
        except BpfError:
            broken = self._write_lists_singly(table, lists, outcome)
        for name, item in lists.items():
            if item.maglev and name not in broken:
                try:
                    self._maglev.write(name, item)
                except BpfError as error:
                    broken[name] = str(error)
        return broken

    def _write_lists_singly(
        self, table: Map, lists: Mapping[int, BackendList], outcome: Outcome
    ) -> dict[int, str]:
        broken: dict[int, str] = {}
        for name, item in lists.items():
            try:
                outcome.written += table.set_many(list_entries(name, item.backends))
            except BpfError as error:
                broken[name] = explain(error, table, BACKENDS)
                self._delete_lists({name: len(item.backends)}, outcome)
        return broken

    def _write_frontends(
        self, frontends: Mapping[FrontendKey, Frontend], broken: Mapping[int, str], outcome: Outcome
    ) -> set[FrontendKey]:
        """Returns what could not be written, which stays as it was."""
        failed: set[FrontendKey] = set()
        good: dict[FrontendKey, Frontend] = {}
        for key, value in frontends.items():
            reason = broken.get(value.list) or broken.get(value.external_list)
            if reason:
                failed.add(key)
                outcome.failures.append(Failure(value.service, f"{key} keeps its old backends: {reason}"))
            else:
                good[key] = value
        table = self._open(SERVICES)
        try:
            outcome.written += table.set_many(
                (frontend_key(key), frontend_value(value)) for key, value in good.items()
            )
        except BpfError:
            for key, value in good.items():
                try:
                    table.set(frontend_key(key), frontend_value(value))
                    outcome.written += 1
                except BpfError as error:
                    failed.add(key)
                    reason = explain(error, table, SERVICES)
                    outcome.failures.append(Failure(value.service, f"{key} is not served: {reason}"))
        return failed

    def _write_keys(
        self,
        name: str,
        items: Iterable[tuple[int, K]],
        encode: Callable[[tuple[int, K]], Any],
        outcome: Outcome,
    ) -> None:
        """Entries of a set: only their keys matter. The first of an item is its service number."""
        table: Map | None = None
        for item in items:
            table = table or self._open(name)
            try:
                table.set(encode(item), 1)
                outcome.written += 1
            except BpfError as error:
                outcome.failures.append(Failure(item[0], explain(error, table, name)))

    def _delete(self, name: str, keys: Iterable[Any], outcome: Outcome) -> None:
        table: Map | None = None
        for key in keys:
            table = table or self._open(name)
            outcome.removed += table.delete(key)

    def _delete_lists(self, lists: Mapping[int, int], outcome: Outcome) -> None:
        """``lists``: their lengths by number."""
        keys = ({"list": name, "index": index} for name, length in lists.items() for index in range(length))
        self._delete(BACKENDS, keys, outcome)
        for name in lists:
            self._maglev.delete(name)


class MaglevMaps(Protocol):
    """Lookup tables of lists, by the list's number."""

    def numbers(self) -> Set[int]:
        """Lists that have a table."""
        ...

    def write(self, name: int, value: BackendList) -> None:
        """Make a list's table. Raises BpfError."""
        ...

    def delete(self, name: int) -> None:
        """Remove a list's table; one that has none is fine."""
        ...


class NoMaglev:
    """For a datapath that chooses backends at random."""

    def numbers(self) -> Set[int]:
        return frozenset()

    def write(self, name: int, value: BackendList) -> None:
        """Nothing to keep."""

    def delete(self, name: int) -> None:
        """Nothing to remove."""


class _Reconciliation:
    """One comparison of everything."""

    def __init__(self, maps: ServiceMaps, want: Wanted) -> None:
        self._maps = maps
        self._want = want
        self._outcome = Outcome()
        self._have = maps._frontends()
        self._have_lists = maps._lists()
        self._tables = set(maps._maglev.numbers())
        self._want_lists = want.lists()
        self._users = Counter(n for value in self._have.values() for n in _lists_of(value))

    def run(self) -> Outcome:
        maps, outcome = self._maps, self._outcome
        members, ranges = set(self._want.affinity_members()), set(self._want.source_ranges())
        have_members = {member_of(key) for key, _ in maps._open(MEMBERS).items()}
        have_ranges = {range_of(key) for key, _ in maps._open(RANGES).items()}
        maps._write_keys(MEMBERS, members - have_members, member_key, outcome)
        maps._write_keys(RANGES, ranges - have_ranges, range_key, outcome)
        self._remove_lists(n for n in self._have_lists if not self._users[n])
        differing = ((k, v) for k, v in self._want.frontends().items())
        while chunk := dict(itertools.islice(differing, CHUNK)):
            self._change_over(chunk)
        gone = [key for key in self._have if key not in self._want.frontends()]
        maps._delete(SERVICES, map(frontend_key, gone), outcome)
        for key in gone:
            self._leave(key, self._have[key])
        self._remove_lists(n for n in self._have_lists.keys() | self._tables if not self._users[n])
        maps._delete(RANGES, map(range_key, have_ranges - ranges), outcome)
        maps._delete(MEMBERS, map(member_key, have_members - members), outcome)
        return outcome

    def _change_over(self, chunk: Mapping[FrontendKey, Frontend]) -> None:
        needed = {n for value in chunk.values() for n in _lists_of(value)}
        broken = self._maps._write_lists(
            {n: self._want_lists[n] for n in needed if not self._complete(n)}, self._outcome
        )
        for name in broken:
            self._have_lists.pop(name, None)
        differing = {key: value for key, value in chunk.items() if self._have.get(key) != value}
        failed = self._maps._write_frontends(differing, broken, self._outcome)
        left: set[int] = set()
        for key, value in differing.items():
            if key in failed:
                continue
            self._users.update(_lists_of(value))
            old = self._have.get(key)
            if old is not None:
                left |= self._leave(key, old)
        self._remove_lists(n for n in left if not self._users[n])

    def _complete(self, name: int) -> bool:
        """Is the list in the kernel as it should be? Noted as there from now on."""
        want = raw(self._want_lists[name])
        have, self._have_lists[name] = self._have_lists.get(name), want
        return have == want and (not self._want_lists[name].maglev or name in self._tables)

    def _leave(self, key: FrontendKey, old: Frontend) -> set[int]:
        """Note that a frontend has changed over; returns the lists it used."""
        self._users.subtract(_lists_of(old))
        new = self._want.frontends().get(key)
        if key.protocol is model.Protocol.UDP:
            before = {entry for n in _lists_of(old) for entry in self._have_lists.get(n, ())}
            after = {entry for n in (_lists_of(new) if new else ()) for entry in raw(self._want_lists[n])}
            self._outcome.released_udp |= {
                (old.service, Backend(text(address), port)) for address, port in before - after
            }
        return set(_lists_of(old))

    def _remove_lists(self, names: Iterable[int]) -> None:
        gone = {n: len(self._have_lists.get(n, ())) for n in list(names) if n not in self._want_lists}
        self._maps._delete_lists(gone, self._outcome)
        for n in gone:
            self._have_lists.pop(n, None)
            self._tables.discard(n)


def _lists_of(value: Frontend) -> tuple[int, ...]:
    return tuple({value.list, value.external_list} - {0})
