"""The reconciler reaches what is wanted from anywhere, and says what it could not do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from podwire.agent.desired import Endpoint4, Ipcache4
from podwire.agent.kernel import stale_slots
from podwire.agent.reconcile import Reconciler, Report, diff
from podwire.net.values import Route4

tables = st.dictionaries(st.text("abc", max_size=2), st.integers(0, 3))


class Table:
    """A table that lives in memory, may refuse keys, and remembers in which order tables were touched."""

    def __init__(
        self, name: str, content: dict[str, int], journal: list[str], refuse: Iterable[str] = ()
    ) -> None:
        self.name = name
        self.content = content
        self.refuse = set(refuse)
        self.reads = 0
        self._journal = journal

    def read(self) -> dict[str, int]:
        self.reads += 1
        return dict(self.content)

    def upsert(self, entries: Mapping[str, int]) -> dict[str, str]:
        self._journal.append(f"write {self.name}")
        self.content.update({key: value for key, value in entries.items() if key not in self.refuse})
        return {key: "full" for key in entries if key in self.refuse}

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        self._journal.append(f"delete {self.name}")
        for key in keys:
            del self.content[key]
        return {}


@given(tables, tables)
def test_diff_applied_gives_what_is_wanted(want: dict[str, int], have: dict[str, int]) -> None:
    change = diff(want, have)
    after = {key: value for key, value in have.items() if key not in change.delete} | change.upsert
    assert after == want
    assert not diff(want, after)


@given(tables, st.lists(tables, max_size=4))
def test_any_sequence_of_wishes_ends_at_the_last(have: dict[str, int], wishes: list[dict[str, int]]) -> None:
    table = Table("t", dict(have), [])
    reconciler = Reconciler([table])
    for want in wishes:
        reconciler.run({"t": want})
        assert table.content == want
    assert table.reads <= 1


@given(tables, tables, tables)
def test_full_run_repairs_drift(have: dict[str, int], want: dict[str, int], drift: dict[str, int]) -> None:
    table = Table("t", dict(have), [])
    reconciler = Reconciler([table])
    reconciler.run({"t": want})
    table.content = dict(drift)
    reconciler.run({"t": want}, full=True)
    assert table.content == want


def test_drift_is_what_others_changed_and_not_what_is_newly_wanted() -> None:
    table = Table("t", {}, [])
    reconciler = Reconciler([table])
    assert not reconciler.run({"t": {"a": 1, "b": 1}}).drift
    assert not reconciler.run({"t": {"a": 2, "c": 1}}, full=True).drift
    table.content = {"a": 9, "x": 1}
    assert reconciler.run({"t": {"a": 2, "c": 1}}, full=True).drift == {"t": 3}


def test_writes_go_first_to_last_and_deletes_last_to_first() -> None:
    journal: list[str] = []
    one, two = Table("one", {"old": 1}, journal), Table("two", {"old": 1}, journal)
    Reconciler([one, two]).run({"one": {"new": 1}, "two": {"new": 1}})
    assert journal == ["write one", "write two", "delete two", "delete one"]


def test_refused_entry_is_reported_and_tried_again() -> None:
    table = Table("t", {}, [], refuse=["a"])
    reconciler = Reconciler([table])
    report = reconciler.run({"t": {"a": 1, "b": 2}})
    assert report.failures == {("t", "a"): "full"}
    assert table.content == {"b": 2}
    table.refuse.clear()
    assert not reconciler.run({"t": {"a": 1, "b": 2}}).failures
    assert table.content == {"a": 1, "b": 2}


def test_kept_tables_only_grow() -> None:
    table = Table("t", {"old": 1}, [])
    Reconciler([table]).run({"t": {"new": 1}}, keep=frozenset({"t"}))
    assert table.content == {"old": 1, "new": 1}


def stale(report: Report, ipcache: dict[str, Ipcache4] | None = None, *, judging: bool = False) -> set[int]:
    return stale_slots(report, ipcache or {}, judging=judging)


def test_only_the_slots_of_what_changed_become_stale() -> None:
    assert stale(Report(touched={"endpoints4": [("10.1.0.2", None, Endpoint4(7, 4, "m"))]})) == {4}


def test_changed_next_hops_make_everything_off_node_stale() -> None:
    assert stale(Report(touched={"ipcache4": [("10.1.1.0/24", None, Ipcache4(3))]})) == {0}
    assert stale(Report(touched={"routes": [("10.1.1.0/24", Route4(2, gateway="192.0.2.1"), None)]})) == {0}
    assert stale(Report(touched={"routes": [("10.1.0.2/32", None, Route4(7))]})) == set()


def test_an_identity_alone_makes_decisions_stale_where_policies_judge() -> None:
    there = Ipcache4(3, next_hop="192.0.2.2", cluster=True)
    pod = Ipcache4(4711, next_hop="192.0.2.2", cluster=True)
    ipcache = {"10.1.0.0/16": Ipcache4(3, cluster=True), "10.1.2.0/24": there}
    for before, after in ((None, pod), (pod, None), (pod, there)):
        report = Report(touched={"ipcache4": [("10.1.2.9/32", before, after)]})
        assert stale(report, ipcache) == set()
        assert stale(report, ipcache, judging=True) == {0}
    elsewhere = Report(touched={"ipcache4": [("10.1.3.9/32", None, pod)]})
    assert stale(elsewhere, ipcache) == {0}  # it is reached in another way than what is around it
