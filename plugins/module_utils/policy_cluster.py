# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Bring a cluster's network policies to the wanted state, by kubectl: read, let the server check, then act.

The server's own dry run fills in defaults and refuses what is wrong before anything is changed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils import policy_objects as objects
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import (
    Kubectl,
    KubectlError,
    decode_stream,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_objects import KINDS, Key, Step

TRIES = 4
"""Agents write to an object's status; a change of ours that meets one is made again."""
WATCH_SECONDS = 10
_RACES = ("(Conflict)", "(AlreadyExists)", "object has been modified")
_UNKNOWN_KIND = (
    "no matches for kind",
    "doesn't have a resource type",
    "could not find the requested resource",
)

Warn = Callable[[str], object]


@dataclass
class Change:
    """What was done, or in check mode would be. ``objects`` are the wanted ones as the server has them now,
    ``versions`` the resource version per plural of a kind up to which nodes have to be.
    """

    steps: list[Step] = field(default_factory=list)
    objects: dict[Key, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    wrote: bool = False
    """Something was changed by a try before this one, too."""

    @property
    def changed(self) -> bool:
        return self.wrote or any(step.action != objects.KEEP for step in self.steps)

    def see(self, kind: str, version: Any) -> None:
        plural = KINDS[kind].plural
        self.versions[plural] = max(self.versions.get(plural, 0), int(version or 0))


class Policies:
    """The policies of a cluster. ``warn`` gets what a person should know, ``check_mode`` changes nothing."""

    def __init__(self, kubectl: Kubectl, *, check_mode: bool, warn: Warn) -> None:
        self.kubectl = kubectl
        self.check_mode = check_mode
        self.warn = warn
        self._wrote = False

    def present(self, wanted: Sequence[dict[str, Any]], policy_set: str, purge: bool) -> Change:
        """Have the wanted objects, and with ``purge`` no others of the set. Raises PodwireError."""
        for again in range(TRIES):
            try:
                return self._present(wanted, policy_set, purge)
            except KubectlError as error:
                if again == TRIES - 1 or not any(sign in str(error) for sign in _RACES):
                    raise
        raise AssertionError

    def _present(self, wanted: Sequence[dict[str, Any]], policy_set: str, purge: bool) -> Change:
        live = self._read(wanted)
        checked = self._check(wanted, live)
        change = Change(objects.steps_present(wanted, live, checked))
        names = {objects.key_of(item) for item in wanted}
        others = (
            [item for item in self._of_set(policy_set) if objects.key_of(item) not in names] if purge else []
        )
        change.steps += objects.steps_absent(others)
        change.objects = {key: live[key] for key in names if key in live}
        change.wrote = self._wrote
        if not self.check_mode:
            sent = {objects.key_of(item): item for item in wanted}
            self._write(
                "create", [sent[step.key] for step in change.steps if step.action == objects.CREATE], change
            )
            self._write(
                "replace",
                [
                    objects.replacement(sent[step.key], live[step.key])
                    for step in change.steps
                    if step.action == objects.REPLACE
                ],
                change,
            )
            self._delete(others, change)
        for item in change.objects.values():
            change.see(item["kind"], item["metadata"]["resourceVersion"])
        return change

    def absent(self, named: Sequence[dict[str, Any]], policy_set: str, purge: bool) -> Change:
        """Have none of the named objects, and with ``purge`` none of the set. Raises PodwireError."""
        found = self._read(named)
        if purge:
            found.update({objects.key_of(item): item for item in self._of_set(policy_set)})
        change = Change(objects.steps_absent(found.values()))
        if not self.check_mode:
            self._delete(list(found.values()), change)
        return change

    def _read(self, wanted: Sequence[Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
        if not wanted or (self.check_mode and not self.kubectl.installed):
            return {}
        try:
            text = self.kubectl.run(
                "get", "--ignore-not-found", "-o", "json", "-f", "-", stdin=_stream(wanted)
            )
        except KubectlError as error:
            if not _says(error, _UNKNOWN_KIND):
                raise
            self._without_kind(error)
            return {}
        return {objects.key_of(item): item for item in decode_stream(text)}

    def _check(
        self, wanted: Sequence[dict[str, Any]], live: Mapping[Key, dict[str, Any]]
    ) -> dict[Key, dict[str, Any]]:
        """What the server would make of each object. Raises PodwireError where it refuses, or drops a
        part.
        """
        new = [item for item in wanted if objects.key_of(item) not in live]
        known = [item for item in wanted if objects.key_of(item) in live]
        results = self._dry("create", new)
        results += self._dry(
            "replace", [objects.replacement(item, live[objects.key_of(item)]) for item in known]
        )
        found = {objects.key_of(item): item for item in results}
        for item in wanted:
            key = objects.key_of(item)
            lost = [
                place
                for part in ("spec", "specs")
                for place in objects.lost_fields({part: item.get(part)}, {part: found[key].get(part)})
            ]
            if lost:
                raise PodwireError(
                    f"{key}: the API does not know {', '.join(lost)} and would leave it out",
                    "Correct the spelling: without that part the policy would mean something else.",
                )
        return found

    def _dry(self, verb: str, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        if not items:
            return []
        if self.check_mode and not self.kubectl.installed:
            return list(items)
        try:
            return decode_stream(
                self.kubectl.run(verb, "--dry-run=server", "-o", "json", "-f", "-", stdin=_stream(items))
            )
        except KubectlError as error:
            early = _says(error, _UNKNOWN_KIND) or ("namespaces" in str(error) and "not found" in str(error))
            if not (self.check_mode and early):
                raise
            # What earlier tasks would have made is missing in check mode.
            self.warn(f"not compared with the cluster: {error}")
            return list(items)

    def _write(self, verb: str, items: Sequence[dict[str, Any]], change: Change) -> None:
        if items:
            self._wrote = True
            text = self.kubectl.run(verb, "-o", "json", "-f", "-", stdin=_stream(items))
            change.objects.update({objects.key_of(item): item for item in decode_stream(text)})

    def _delete(self, items: Sequence[Mapping[str, Any]], change: Change) -> None:
        if not items:
            return
        kinds = sorted({item["kind"] for item in items})
        began = {kind: self._version(kind) for kind in kinds}
        named = [
            {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": _name_of(item)}
            for item in items
        ]
        self.kubectl.run("delete", "--ignore-not-found", "-f", "-", stdin=_stream(named), timeout=60)
        for kind in kinds:
            keys = {objects.key_of(item) for item in items if item["kind"] == kind}
            change.see(kind, self._deleted(kind, began[kind], keys))

    def _version(self, kind: str) -> str:
        """The version of the cluster from which a watch sees what comes."""
        text = self.kubectl.raw(f"{KINDS[kind].path}?limit=1")
        return str(json.loads(text)["metadata"]["resourceVersion"])

    def _deleted(self, kind: str, since: str, keys: set[Key]) -> int:
        """The resource version at which the last of the objects went. Only a watch tells it."""
        path = f"{KINDS[kind].path}?watch=true&resourceVersion={since}&timeoutSeconds={WATCH_SECONDS}"
        versions: dict[Key, int] = {}
        with contextlib.closing(self.kubectl.lines("get", "--raw", path)) as lines:
            for line in lines:
                event = json.loads(line)
                if event.get("type") == "ERROR":
                    break  # the history is gone: whoever watches lists again
                if event.get("type") == "DELETED":
                    item = {"kind": kind, **event["object"]}
                    versions[objects.key_of(item)] = int(item["metadata"]["resourceVersion"])
                if keys <= versions.keys():
                    return max(versions[key] for key in keys)
        return 0

    def _of_set(self, policy_set: str) -> list[dict[str, Any]]:
        """All objects of a set, of every kind."""
        if self.check_mode and not self.kubectl.installed:
            return []
        chosen = ("--all-namespaces", f"--selector={objects.SET_LABEL}={policy_set}")
        kinds = [kind.resource for kind in KINDS.values()]
        try:
            return self.kubectl.items(",".join(kinds), *chosen)
        except KubectlError as error:
            if not _says(error, _UNKNOWN_KIND):
                raise
        # Some kinds are not known here (yet): what there is of the others.
        found: list[dict[str, Any]] = []
        for kind in kinds:
            try:
                found += self.kubectl.items(kind, *chosen)
            except KubectlError as error:
                if not _says(error, _UNKNOWN_KIND):
                    raise
        return found

    def _without_kind(self, error: KubectlError) -> None:
        if not self.check_mode:
            raise PodwireError(
                f"the cluster does not know this kind of policy: {error}",
                "podwire's rollout (playbook podwire.ebpf.site) brings its definition.",
            ) from error
        self.warn(f"the cluster does not know this kind of policy yet: {error}")


def _says(error: Exception, signs: Iterable[str]) -> bool:
    return any(sign in str(error) for sign in signs)


def _name_of(item: Mapping[str, Any]) -> dict[str, str]:
    metadata = item["metadata"]
    return {part: metadata[part] for part in ("name", "namespace") if metadata.get(part)}


def _stream(items: Iterable[Mapping[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(items)})
