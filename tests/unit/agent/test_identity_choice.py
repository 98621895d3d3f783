"""Agents that number labels at the same time, and delete what nobody uses, agree. The real choice is run
step by step against a store of objects, in every order that hypothesis thinks of."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from podwire.agent.identity_choice import GRACE, JITTER, Create, Garbage, Step, Steps, Touch, choose
from podwire.agent.identity_objects import IdentityObject
from podwire.policy import identity


class Store:
    """What an API server does with these objects."""

    def __init__(self) -> None:
        self.objects: dict[int, IdentityObject] = {}
        self._versions = itertools.count(1)

    def answer(self, step: Step) -> IdentityObject | None:
        present = self.objects.get(step.number)
        if isinstance(step, Touch):
            if present is not None:
                self.objects[step.number] = present._replace(version=str(next(self._versions)))
            return self.objects.get(step.number)
        if present is not None:
            return None
        self.objects[step.number] = IdentityObject(step.number, step.labels, str(next(self._versions)))
        return self.objects[step.number]

    def delete(self, item: IdentityObject) -> None:
        """With the version as precondition."""
        present = self.objects.get(item.number)
        if present is not None and present.version == item.version:
            del self.objects[item.number]


def finish(steps: Steps, store: Store) -> IdentityObject | None:
    try:
        step = next(steps)
        while True:
            step = steps.send(store.answer(step))
    except StopIteration as end:
        found: IdentityObject | None = end.value
        return found


LABELS = [{"k8s:app": name} for name in "abcd"]
FEW = 6
"""Numbers there are in these tests, so that labels collide all the time."""


@pytest.fixture(autouse=True)
def few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    make_few(monkeypatch)


def make_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "LAST", identity.FIRST + FEW - 1)


def test_labels_have_the_same_number_whoever_asks() -> None:
    store = Store()
    first = [finish(choose(labels), store) for labels in LABELS]
    again = [finish(choose(labels), store) for labels in reversed(LABELS)]
    assert [item and item.number for item in first] == [item and item.number for item in reversed(again)]
    assert len(store.objects) == len(LABELS)


def test_a_lost_number_is_made_again() -> None:
    store = Store()
    for labels in LABELS:
        finish(choose(labels), store)
    last = finish(choose(LABELS[-1]), store)
    assert last is not None
    store.objects.clear()
    again = finish(choose(LABELS[-1], last.number), store)
    assert again is not None
    assert again.number == last.number


def test_a_number_that_others_took_meanwhile_is_not_used() -> None:
    store = Store()
    taken = finish(choose(LABELS[0]), store)
    assert taken is not None
    mine = finish(choose(LABELS[1], taken.number), store)
    assert mine is not None
    assert mine.number != taken.number
    assert store.objects[mine.number].labels == LABELS[1]


def test_a_touch_comes_before_a_deletion_or_after_it() -> None:
    store = Store()
    idle = finish(choose(LABELS[0]), store)
    assert idle is not None
    finish(choose(LABELS[0], idle.number), store)
    store.delete(idle)
    assert store.objects[idle.number].labels == LABELS[0]


def test_when_all_numbers_are_taken_nobody_gets_one() -> None:
    store = Store()
    for number in range(FEW):
        store.answer(Create(identity.FIRST + number, {"k8s:other": str(number)}))
    assert finish(choose(LABELS[0]), store) is None


class Agents(RuleBasedStateMachine):
    """Agents that choose, publish and stop using; one that looks for what is idle, and deletes it any time
    later.

    What is held but not published yet is published long before an identity that was idle at a look is due:
    the look leaves it out, as the clock does in truth."""

    choices = Bundle("choices")
    looks = Bundle("looks")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        make_few(self.patch)
        self.store = Store()
        self.held: list[IdentityObject] = []

    def teardown(self) -> None:
        self.patch.undo()

    @rule(target=choices, labels=st.sampled_from(LABELS), stale=st.integers(0, FEW))
    def begin(self, labels: Mapping[str, str], stale: int) -> tuple[Steps, list[Step]]:
        """An agent needs a number; what it believes to be the present one may be anything."""
        known = [item.number for item in self.store.objects.values() if item.labels == labels]
        present = identity.FIRST + stale - 1 if stale and not known else next(iter(known), 0)
        steps = choose(labels, present)
        return steps, [next(steps)]

    @rule(choice=choices, times=st.integers(1, 4))
    def go_on(self, choice: tuple[Steps, list[Step]], times: int) -> None:
        steps, pending = choice
        for _ in range(times):
            if not pending:
                return
            try:
                pending.append(steps.send(self.store.answer(pending.pop())))
            except StopIteration as end:
                if end.value is not None:
                    self.held.append(end.value)

    @rule(which=st.integers(0, 100))
    def stop_using(self, which: int) -> None:
        if self.held:
            self.held.pop(which % len(self.held))

    @rule(target=looks)
    def look(self) -> object:
        used = {item.number for item in self.held}
        return multiple(*(item for item in self.store.objects.values() if item.number not in used))

    @rule(item=looks)
    def delete(self, item: IdentityObject) -> None:
        self.store.delete(item)

    @invariant()
    def whoever_has_a_number_has_its_labels(self) -> None:
        for item in self.held:
            assert self.store.objects[item.number].labels == item.labels


TestAgents = Agents.TestCase
TestAgents.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@given(st.permutations(range(3)), st.data())
def test_agents_that_ask_at_once_get_the_same_number(order: list[int], data: st.DataObject) -> None:
    store = Store()
    running: dict[int, tuple[Steps, Step]] = {}
    for agent in order:
        steps = choose(LABELS[0])
        running[agent] = (steps, next(steps))
    numbers = set()
    while running:
        agent = data.draw(st.sampled_from(sorted(running)))
        steps, step = running.pop(agent)
        try:
            running[agent] = (steps, steps.send(store.answer(step)))
        except StopIteration as end:
            numbers.add(end.value.number)
    assert len(numbers) == 1
    assert len(store.objects) == 1


def test_what_is_idle_for_long_is_due_once_and_in_that_version() -> None:
    garbage = Garbage()
    item = IdentityObject(300, {}, "1")
    assert garbage.look(0.0, [item], set()) == []
    assert garbage.look(GRACE - 1, [item], set()) == []
    assert garbage.look(GRACE + JITTER, [item], set()) == [item]
    touched = item._replace(version="2")
    assert garbage.look(GRACE + JITTER, [touched], set()) == []  # its time begins anew
    assert garbage.look(2 * (GRACE + JITTER), [touched], {300}) == []
    assert garbage.look(9 * GRACE, [touched], set()) == []
