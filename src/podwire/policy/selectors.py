"""Which labels a selector matches. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from podwire.policy import labels as security
from podwire.policy.model import Labels, Operator, Requirement, Selector


def matches(selector: Selector, labels: Labels) -> bool:
    """Whether every requirement holds. No requirements: always."""
    return all(holds(requirement, labels) for requirement in selector.requirements)


def holds(requirement: Requirement, labels: Labels) -> bool:
    """Whether one requirement holds. As in Kubernetes, NotIn and DoesNotExist hold without the key."""
    operator, values = requirement.operator, requirement.values
    found = [labels[place] for place in security.places(requirement.key) if place in labels]
    if operator is Operator.IN:
        return any(value in values for value in found)
    if operator is Operator.NOT_IN:
        return not any(value in values for value in found)
    return bool(found) is (operator is Operator.EXISTS)


def one_of(key: str, *values: str) -> Requirement:
    """The requirement that ``matchLabels`` stands for: the key has this value (or one of these)."""
    return Requirement(key, Operator.IN, frozenset(values))


def exists(key: str) -> Requirement:
    return Requirement(key, Operator.EXISTS)


def from_labels(labels: Mapping[str, str]) -> Selector:
    """The selector that asks for each of these labels, such as a service's. Keys may lack a source."""
    return Selector(tuple(one_of(security.selector_key(key), labels[key]) for key in sorted(labels)))


def names_key(selector: Selector, name: str, sources: Iterable[str] = (security.K8S, security.ANY)) -> bool:
    """Whether a requirement is about this key, written with one of these sources or none."""
    wanted = {security.key(source, name) for source in sources}
    return any(requirement.key in wanted for requirement in selector.requirements)


def names_source(selector: Selector, source: str) -> bool:
    """Whether a requirement is about a key of this source."""
    return any(security.split(requirement.key)[0] == source for requirement in selector.requirements)


def names_prefix(selector: Selector, prefix: str) -> bool:
    """Whether a requirement is about a key of Kubernetes that starts so."""
    return any(
        source in (security.K8S, security.ANY) and name.startswith(prefix)
        for source, name in (security.split(requirement.key) for requirement in selector.requirements)
    )


def text(selector: Selector) -> str:
    """For people: ``k8s:app=web, k8s:tier in (a, b), !k8s:old``; ``everything`` without requirements."""
    return ", ".join(_text(requirement) for requirement in selector.requirements) or "everything"


def _text(requirement: Requirement) -> str:
    key, values = requirement.key.removeprefix("any:"), sorted(requirement.values)
    if requirement.operator is Operator.EXISTS:
        return key
    if requirement.operator is Operator.DOES_NOT_EXIST:
        return f"!{key}"
    if requirement.operator is Operator.IN and len(values) == 1:
        return f"{key}={values[0]}"
    word = "in" if requirement.operator is Operator.IN else "not in"
    return f"{key} {word} ({', '.join(values)})"
