"""Make a table of the kernel equal what is wanted, whatever the table is: a map, routes, sysctls.

The difference is computed on plain dictionaries (pure) and applied by the table in batches. What the kernel
holds is remembered, so that the usual change costs one write; a full run reads it again and repairs drift."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Diff(Generic[K, V]):
    """What to write and what to remove; both empty when nothing is to be done."""

    upsert: dict[K, V]
    delete: list[K]

    def __bool__(self) -> bool:
        return bool(self.upsert or self.delete)


def diff(want: Mapping[K, V], have: Mapping[K, V]) -> Diff[K, V]:
    """The steps that turn ``have`` into ``want``."""
    missing = object()
    upsert = {key: value for key, value in want.items() if have.get(key, missing) != value}
    return Diff(upsert, [key for key in have if key not in want])


class Table(Protocol[K, V]):
    """A keyed set of things in the kernel that only the agent writes."""

    name: str

    def read(self) -> dict[K, V]:
        """Everything that is there and is the agent's."""
        ...

    def upsert(self, entries: Mapping[K, V]) -> dict[K, str]:
        """Write entries; returns the reason for each that could not be written."""
        ...

    def delete(self, keys: Iterable[K]) -> dict[K, str]:
        """Remove entries; one that is gone already is fine. Returns the reason for each that could not be
        removed."""
        ...


@dataclass(slots=True)
class Report:
    """What one run did. ``failures`` is keyed by (table name, key)."""

    changed: dict[str, int] = field(default_factory=dict)
    drift: dict[str, int] = field(default_factory=dict)
    """Per table: how many entries somebody else had changed since they were last looked at."""
    failures: dict[tuple[str, Any], str] = field(default_factory=dict)
    touched: dict[str, list[tuple[Any, Any, Any]]] = field(default_factory=dict)
    """Per table: (key, before, after) of what was written; None = absent."""


class Reconciler:
    """Tables in dependency order: entries are written first to last and removed last to first."""

    def __init__(self, tables: Iterable[Table[Any, Any]]) -> None:
        self._tables = list(tables)
        self._have: dict[str, dict[Any, Any]] = {}
        self._lock = threading.Lock()

    def run(
        self, want: Mapping[str, Mapping[Any, Any]], *, full: bool = False, keep: frozenset[str] = frozenset()
    ) -> Report:
        """Apply ``want`` (by table name). With ``full`` the kernel is read again instead of trusting memory.

        From the tables named in ``keep`` nothing is removed."""
        report = Report()
        with self._lock:
            diffs: list[tuple[Table[Any, Any], Diff[Any, Any]]] = []
            for table in self._tables:
                if full or table.name not in self._have:
                    self._read(table, report)
                change = diff(want[table.name], self._have[table.name])
                if table.name in keep:
                    change.delete.clear()
                diffs.append((table, change))
            for table, change in diffs:
                if change.upsert:
                    self._upsert(table, change.upsert, report)
            for table, change in reversed(diffs):
                if change.delete:
                    self._delete(table, change.delete, report)
        return report

    def _read(self, table: Table[Any, Any], report: Report) -> None:
        found = table.read()
        before = self._have.get(table.name)
        if before is not None:
            drifted = diff(before, found)
            if drifted:
                report.drift[table.name] = len(drifted.upsert) + len(drifted.delete)
        self._have[table.name] = found

    def _upsert(self, table: Table[Any, Any], entries: dict[Any, Any], report: Report) -> None:
        failed = table.upsert(entries)
        have = self._have[table.name]
        for key, value in entries.items():
            if key in failed:
                report.failures[(table.name, key)] = failed[key]
                have.pop(key, None)  # unknown now: the next run tries again
            else:
                report.touched.setdefault(table.name, []).append((key, have.get(key), value))
                have[key] = value
        report.changed[table.name] = report.changed.get(table.name, 0) + len(entries) - len(failed)

    def _delete(self, table: Table[Any, Any], keys: list[Any], report: Report) -> None:
        failed = table.delete(keys)
        have = self._have[table.name]
        for key in keys:
            if key in failed:
                report.failures[(table.name, key)] = failed[key]
            else:
                report.touched.setdefault(table.name, []).append((key, have.pop(key, None), None))
        report.changed[table.name] = report.changed.get(table.name, 0) + len(keys) - len(failed)
