"""Which labels a selector matches."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.policy import selectors
from podwire.policy.identity import RESERVED
from podwire.policy.labels import pod_labels
from podwire.policy.model import Operator, Requirement, Selector

from .test_labels import LABELS

WEB = pod_labels({"app": "web"}, "alpha", {"team": "red"})
HOST = RESERVED[1]
IN, NOT_IN, EXISTS, ABSENT = Operator.IN, Operator.NOT_IN, Operator.EXISTS, Operator.DOES_NOT_EXIST


@pytest.mark.parametrize(
    ("key", "operator", "values", "labels", "holds"),
    [
        ("k8s:app", IN, "web", WEB, True),
        ("any:app", IN, "web", WEB, True),
        ("any:app", IN, "cli web", WEB, True),
        ("any:app", IN, "cli", WEB, False),
        ("any:tier", IN, "web", WEB, False),
        ("reserved:app", IN, "web", WEB, False),
        ("any:app", NOT_IN, "web", WEB, False),
        ("any:app", NOT_IN, "cli", WEB, True),
        ("any:tier", NOT_IN, "cli", WEB, True),
        ("k8s:app", NOT_IN, "web", HOST, True),
        ("any:app", EXISTS, "", WEB, True),
        ("any:tier", EXISTS, "", WEB, False),
        ("any:app", ABSENT, "", WEB, False),
        ("any:tier", ABSENT, "", WEB, True),
        ("k8s:app", ABSENT, "", HOST, True),
        ("reserved:host", EXISTS, "", HOST, True),
        ("any:host", EXISTS, "", HOST, True),
        ("k8s:host", EXISTS, "", HOST, False),
        ("k8s:io.kubernetes.pod.namespace", EXISTS, "", HOST, False),
        ("any:io.cilium.k8s.namespace.labels.team", IN, "red", WEB, True),
    ],
)
def test_one_requirement(
    key: str, operator: Operator, values: str, labels: Mapping[str, str], holds: bool
) -> None:
    assert selectors.holds(Requirement(key, operator, frozenset(values.split())), labels) is holds


def test_label_with_an_empty_value_is_there() -> None:
    assert selectors.matches(selectors.from_labels({"reserved:host": ""}), HOST)
    assert not selectors.matches(selectors.from_labels({"reserved:world": ""}), HOST)


def test_any_looks_at_every_source() -> None:
    both = {"k8s:app": "web", "container:app": "cli"}
    assert selectors.holds(Requirement("any:app", IN, frozenset({"cli"})), both)
    assert not selectors.holds(Requirement("any:app", NOT_IN, frozenset({"cli"})), both)


def test_requirements_are_all_needed() -> None:
    selector = Selector((selectors.one_of("any:app", "web"), selectors.exists("any:tier")))
    assert not selectors.matches(selector, WEB)
    assert selectors.matches(selector, {**WEB, "k8s:tier": ""})


@given(LABELS)
def test_without_requirements_everything_matches(labels: dict[str, str]) -> None:
    assert selectors.matches(Selector(), labels)


@given(LABELS)
def test_labels_match_the_selector_made_of_them(labels: dict[str, str]) -> None:
    assert selectors.matches(selectors.from_labels(labels), labels)


@given(
    LABELS,
    st.sampled_from(["k8s:a", "any:a", "reserved:a", "any:b"]),
    st.frozensets(st.sampled_from(["", "a", "b"]), min_size=1),
)
def test_operators_are_opposites(labels: dict[str, str], key: str, values: frozenset[str]) -> None:
    for one, other, having in ((IN, NOT_IN, values), (EXISTS, ABSENT, frozenset[str]())):
        assert selectors.holds(Requirement(key, one, having), labels) is not selectors.holds(
            Requirement(key, other, having), labels
        )


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (Selector(), "everything"),
        (selectors.from_labels({"app": "web", "k8s:tier": ""}), "app=web, k8s:tier="),
        (Selector((Requirement("k8s:a", NOT_IN, frozenset({"x", "y"})),)), "k8s:a not in (x, y)"),
        (Selector((Requirement("k8s:a", ABSENT), Requirement("any:b", EXISTS))), "!k8s:a, b"),
    ],
)
def test_text_for_people(selector: Selector, text: str) -> None:
    assert selectors.text(selector) == text


def test_what_a_selector_names() -> None:
    selector = selectors.from_labels(
        {"io.kubernetes.pod.namespace": "a", "io.cilium.k8s.namespace.labels.x": "y"}
    )
    assert selectors.names_key(selector, "io.kubernetes.pod.namespace")
    assert not selectors.names_key(selector, "io.kubernetes.pod.namespace", ["k8s"])
    assert selectors.names_prefix(selector, "io.cilium.k8s.namespace.labels.")
    assert not selectors.names_source(selector, "reserved")
    assert selectors.names_source(selectors.from_labels({"reserved:host": ""}), "reserved")
