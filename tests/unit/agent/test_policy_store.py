"""Which version of a policy is in force."""

from __future__ import annotations

from typing import Any

from podwire.agent.policy_store import (
    Condition,
    PolicyStore,
    Taken,
    condition_of,
    condition_wanted,
    essence,
)
from podwire.policy.model import Direction, Origin, Policy, Rule, Selector

KEY = "CiliumNetworkPolicy/alpha/web"


def taken(generation: int = 1, *, uid: str = "u", errors: tuple[str, ...] = (), **more: Any) -> Taken:
    origin = Origin("CiliumNetworkPolicy", "alpha", "web", uid)
    rule = Rule(origin, Selector(), (), frozenset({Direction.INGRESS}), log=f"rule {generation}")
    rules = () if errors else (more.get("rule", rule),)
    policy = Policy(origin, rules, errors, more.get("warnings", ()), str(generation), generation)
    return Taken(policy, None, {"generation": generation})


def test_the_last_valid_version_stays_in_force() -> None:
    store = PolicyStore()
    first = taken(1)
    assert store.set(KEY, first)
    assert not store.set(KEY, taken(2, errors=("no such entity",)))
    assert store.rules_source() == {KEY: first.policy}
    known = store.get(KEY)
    assert known is not None
    assert known.stale
    condition = condition_wanted(known)
    assert not condition.valid
    assert condition.message == "no such entity. Generation 1 stays in force"
    assert store.last_valid() == [{"generation": 1}]
    assert store.set(KEY, taken(3))
    assert not store.last_valid()


def test_one_that_never_was_valid_enforces_nothing() -> None:
    store = PolicyStore()
    assert not store.set(KEY, taken(1, errors=("wrong",)))
    known = store.get(KEY)
    assert known is not None
    assert not store.rules_source()
    assert condition_wanted(known).message == "wrong. Nothing of it is enforced"


def test_another_object_of_the_same_name_has_no_earlier_version() -> None:
    store = PolicyStore()
    store.set(KEY, taken(1))
    assert store.set(KEY, taken(1, uid="other", errors=("wrong",)))
    assert not store.rules_source()


def test_an_earlier_version_outlives_the_agent_but_not_the_object() -> None:
    first, broken = taken(1), taken(2, errors=("wrong",))
    store = PolicyStore([first])
    assert store.set(KEY, broken)
    assert store.rules_source() == {KEY: first.policy}
    assert store.delete(KEY)
    assert not store.set(KEY, broken)


def test_a_status_or_label_that_changes_is_no_change_of_policy() -> None:
    store = PolicyStore()
    rule = taken(1).policy.rules[0]
    store.set(KEY, taken(1))
    assert not store.set(KEY, taken(2, rule=rule))
    assert store.delete(KEY)
    assert not store.delete(KEY)


def test_warnings_are_said_where_the_object_is_valid() -> None:
    store = PolicyStore()
    store.set(KEY, taken(1, warnings=("namespace overridden",)))
    known = store.get(KEY)
    assert known is not None
    assert condition_wanted(known) == Condition(True, "Enforced", "namespace overridden")


def test_conditions_are_read_whatever_else_a_status_has() -> None:
    assert condition_of({}) == (None, "")
    assert condition_of({"status": {"conditions": "?"}}) == (None, "")
    item = {
        "type": "Valid",
        "status": "False",
        "reason": "Invalid",
        "message": "m",
        "lastTransitionTime": "t",
    }
    found = condition_of({"status": {"conditions": [3, {"type": "Other"}, item]}})
    assert found == (Condition(False, "Invalid", "m"), "t")


def test_what_a_policy_is_made_of_is_kept() -> None:
    metadata = {"name": "a", "namespace": "b", "uid": "u", "managedFields": [1] * 100}
    value = {"kind": "NetworkPolicy", "metadata": metadata, "spec": {}, "status": {"x": 1}}
    assert essence(value) == {
        "kind": "NetworkPolicy",
        "metadata": {"name": "a", "namespace": "b", "uid": "u"},
        "spec": {},
    }
