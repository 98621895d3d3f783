"""Work that depends on other work, done side by side."""

import threading

import pytest

from lab.graph import check, run_all


def test_results_reach_those_who_need_them():
    needs = {"sum": ("one", "two"), "one": (), "two": ()}
    work = {"one": lambda _: 1, "two": lambda _: 2, "sum": lambda done: done["one"] + done["two"]}
    assert run_all(needs, lambda name, done: work[name](done)) == {"one": 1, "two": 2, "sum": 3}


def test_independent_work_runs_at_the_same_time():
    meeting = threading.Barrier(3, timeout=20)  # breaks unless all three are there together
    run_all(dict.fromkeys("abc", ()), lambda _name, _done: meeting.wait())


def test_the_first_in_the_list_begins_first():
    begun = []
    run_all({"long": (), "a": (), "b": ()}, lambda name, _done: begun.append(name), width=1)
    assert begun == ["long", "a", "b"]


def test_failure_stops_what_comes_after_and_what_runs():
    stopped, done = threading.Event(), []

    def work(name, _results):
        if name == "bad":
            raise KeyError(name)
        if name == "slow":
            assert stopped.wait(20)
        done.append(name)

    needs = {"slow": (), "bad": (), "after-bad": ("bad",), "after-slow": ("slow",)}
    with pytest.raises(KeyError, match="bad"):
        run_all(needs, work, on_failure=stopped.set)
    assert done == ["slow"]


@pytest.mark.parametrize(
    ("needs", "named"),
    [({"a": ("b",), "b": ("a",)}, "need each other: a, b"), ({"a": ("x",)}, "a needs x")],
)
def test_impossible_orders_are_refused(needs, named):
    with pytest.raises(ValueError, match=named):
        check(needs)


def test_order_respects_needs():
    order = check({"snap": ("kubernetes",), "kubernetes": (), "node": ()})
    assert order.index("kubernetes") < order.index("snap")
