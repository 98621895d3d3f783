"""The policies of the cluster as this agent knows them, and which version of each is in force. Pure.

An object that becomes invalid by an update changes nothing that is enforced: its last valid version stays in
force, as long as the object exists, and its status says so. One that never was valid enforces nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from podwire.policy.model import Policy, Rule

PLURALS = {
    "NetworkPolicy": "networkpolicies",
    "CiliumNetworkPolicy": "ciliumnetworkpolicies",
    "CiliumClusterwideNetworkPolicy": "ciliumclusterwidenetworkpolicies",
}
"""Kinds of policies, and the names of their resources."""
VALID = "Valid"
"""Type of the condition that says whether an object is enforced as it stands."""
_KEPT = ("apiVersion", "kind", "spec", "specs")
_KEPT_METADATA = ("namespace", "name", "uid", "generation", "resourceVersion")


class Condition(NamedTuple):
    """What an object's status says of its validity."""

    valid: bool
    reason: str
    message: str


class Taken(NamedTuple):
    """An object of the API, parsed."""

    policy: Policy
    condition: Condition | None
    """None: its status has none yet."""
    raw: Mapping[str, Any]
    """What it was parsed from: see ``essence``."""
    since: str = ""
    """When the condition last changed over, as the API writes it."""


@dataclass(frozen=True, slots=True)
class Known:
    """An object, and what of it is in force."""

    taken: Taken
    in_force: Taken | None
    """The object itself, an earlier version of it, or nothing."""

    @property
    def policy(self) -> Policy:
        return self.taken.policy

    @property
    def stale(self) -> bool:
        """Is an earlier version in force, because this one is invalid?"""
        return self.in_force is not None and self.in_force is not self.taken


class PolicyStore:
    """Policies by key, ``Kind/namespace/name`` or ``Kind/name``."""

    def __init__(self, last_valid: Iterable[Taken] = ()) -> None:
        """``last_valid``: what was in force of invalid objects when an earlier agent ended."""
        self._known: dict[str, Known] = {}
        self._last_valid = {taken.policy.origin.key: taken for taken in last_valid}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Known]:
        return iter(list(self._known.values()))

    def get(self, key: str) -> Known | None:
        return self._known.get(key)

    def set(self, key: str, taken: Taken) -> bool:
        """Take an object as it is now; True when this changes what is enforced."""
        before = self._known.get(key)
        in_force = taken if not taken.policy.errors else self._earlier(key, taken)
        self._known[key] = Known(taken, in_force)
        return _rules(before.in_force if before else None) != _rules(in_force)

    def delete(self, key: str) -> bool:
        """Forget an object; True when this changes what is enforced."""
        before = self._known.pop(key, None)
        self._last_valid.pop(key, None)
        return before is not None and bool(_rules(before.in_force))

    def rules_source(self) -> dict[str, Policy]:
        """The policies to enforce, by key: each in the version that is in force."""
        return {
            key: known.in_force.policy for key, known in self._known.items() if known.in_force is not None
        }

    def last_valid(self) -> list[Mapping[str, Any]]:
        """Objects to remember across a restart: earlier versions that are in force."""
        return [known.in_force.raw for known in self._known.values() if known.stale and known.in_force]

    def _earlier(self, key: str, taken: Taken) -> Taken | None:
        """What is in force of an object that is invalid now."""
        before = self._known.get(key)
        earlier = before.in_force if before else self._last_valid.get(key)
        # Another object of the same name is none of its earlier versions.
        same = earlier is not None and earlier.policy.origin.uid == taken.policy.origin.uid
        return earlier if same else None


def _rules(taken: Taken | None) -> tuple[Rule, ...]:
    return taken.policy.rules if taken is not None else ()


def condition_wanted(known: Known) -> Condition:
    """What the status of an object should say."""
    policy = known.policy
    if not policy.errors:
        return Condition(True, "Enforced", "; ".join(policy.warnings))
    problem = "; ".join(policy.errors)
    if known.stale and known.in_force is not None:
        earlier = known.in_force.policy.generation
        kept = f"generation {earlier}" if earlier else "its last valid version"
        return Condition(False, "Invalid", f"{problem}. {kept[0].upper()}{kept[1:]} stays in force")
    return Condition(False, "Invalid", f"{problem}. Nothing of it is enforced")


def condition_of(value: Mapping[str, Any]) -> tuple[Condition | None, str]:
    """What the status of an object of the API says, and since when."""
    status = value.get("status")
    conditions = status.get("conditions") if isinstance(status, Mapping) else None
    for item in conditions if isinstance(conditions, list) else ():
        if isinstance(item, Mapping) and item.get("type") == VALID:
            valid = item.get("status") == "True"
            found = Condition(valid, str(item.get("reason") or ""), str(item.get("message") or ""))
            return found, str(item.get("lastTransitionTime") or "")
    return None, ""


def essence(value: Mapping[str, Any]) -> dict[str, Any]:
    """What of an object of the API its meaning depends on."""
    metadata = value.get("metadata") or {}
    kept = {name: metadata[name] for name in _KEPT_METADATA if name in metadata}
    return {"metadata": kept, **{name: value[name] for name in _KEPT if name in value}}
