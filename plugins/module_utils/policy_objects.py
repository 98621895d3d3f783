# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Network policies as objects of the Kubernetes API: which kinds there are, what of an object is its
author's, and what has to happen so that the cluster has the wanted ones. Pure.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

SET_LABEL = "podwire.io/policy-set"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Kind:
    """A kind of policy. ``plural`` names it in URLs and in what nodes report."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def resource(self) -> str:
        """The name that kubectl cannot mistake for another group's."""
        return f"{self.plural}.{self.api_version.partition('/')[0]}"

    @property
    def path(self) -> str:
        """Where the API lists all objects of the kind."""
        return f"/apis/{self.api_version}/{self.plural}"


NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
CILIUM = Kind("CiliumNetworkPolicy", "cilium.io/v2", "ciliumnetworkpolicies")
CILIUM_CLUSTERWIDE = Kind(
    "CiliumClusterwideNetworkPolicy", "cilium.io/v2", "ciliumclusterwidenetworkpolicies", namespaced=False
)
KINDS = {kind.name: kind for kind in (NETWORK_POLICY, CILIUM, CILIUM_CLUSTERWIDE)}


@dataclass(frozen=True, order=True)
class Key:
    """Which object is meant."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


def key_of(item: Mapping[str, Any]) -> Key:
    metadata = item["metadata"]
    return Key(item["kind"], metadata.get("namespace") or "", metadata["name"])


def flatten(documents: Iterable[Any]) -> list[dict[str, Any]]:
    """The objects of documents: lists of objects and objects of kind List are taken apart, empty documents
    left out.
    """
    found: list[dict[str, Any]] = []
    for document in documents:
        if document in (None, {}, []):
            continue
        if isinstance(document, list):
            found += flatten(document)
        elif isinstance(document, dict) and str(document.get("kind", "")).endswith("List"):
            found += flatten(document.get("items") or [])
        elif isinstance(document, dict):
            found.append(document)
        else:
            raise PodwireError(
                f"{document!r} is no object of the Kubernetes API",
                "A policy is a mapping with apiVersion, kind, metadata and spec.",
            )
    return found


def complete(
    items: Iterable[Mapping[str, Any]], namespace: str, policy_set: str = ""
) -> list[dict[str, Any]]:
    """The objects with their namespace and their set's label. Raises PodwireError for what is no policy."""
    if policy_set and not _LABEL_VALUE.fullmatch(policy_set):
        raise PodwireError(
            f"{policy_set!r} cannot name a set of policies",
            "It becomes a label: up to 63 letters, digits, '-', '_', '.', alphanumeric at both ends.",
        )
    wanted: dict[Key, dict[str, Any]] = {}
    for item in items:
        whole = _completed(item, namespace, policy_set)
        key = key_of(whole)
        if key in wanted:
            raise PodwireError(f"{key} is given twice", "Leave one of them out, or give it another name.")
        wanted[key] = whole
    return list(wanted.values())


def _completed(item: Mapping[str, Any], namespace: str, policy_set: str) -> dict[str, Any]:
    kind = KINDS.get(str(item.get("kind")))
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if kind is None or item.get("apiVersion") != kind.api_version:
        known = ", ".join(f"{kind.name} of {kind.api_version}" for kind in KINDS.values())
        raise PodwireError(
            f"{item.get('kind') or 'an object without kind'} {name or ''} of "
            f"{item.get('apiVersion') or 'no apiVersion'} is no network policy",
            f"This applies {known}.",
        )
    if not isinstance(metadata, dict) or not name:
        raise PodwireError(f"a {kind.name} has no metadata.name", "Every policy needs a name of its own.")
    whole = copy.deepcopy(dict(item))
    if kind.namespaced:
        whole["metadata"].setdefault("namespace", namespace)
    elif metadata.get("namespace"):
        raise PodwireError(
            f"{kind.name} {name} has the namespace {metadata['namespace']}, but this kind has none",
            f"Take metadata.namespace out, or make it a {CILIUM.name}.",
        )
    if policy_set:
        whole["metadata"]["labels"] = {**(metadata.get("labels") or {}), SET_LABEL: policy_set}
    return whole


def replacement(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """What to put in the place of ``live``: its rules exactly as wanted. Labels and annotations that others
    have added stay.
    """
    new = copy.deepcopy(dict(wanted))
    metadata = new["metadata"]
    for part in ("labels", "annotations"):
        merged = {**(live["metadata"].get(part) or {}), **(metadata.get(part) or {})}
        if merged:
            metadata[part] = merged
    if LAST_APPLIED in metadata.get("annotations", {}):
        # Or the next `kubectl apply` would compare with rules that are not there any more.
        metadata["annotations"][LAST_APPLIED] = (
            json.dumps(wanted, sort_keys=True, separators=(",", ":")) + "\n"
        )
    for part in ("finalizers", "ownerReferences"):
        if live["metadata"].get(part):
            metadata[part] = live["metadata"][part]
    return new


def essence(item: Mapping[str, Any] | None) -> dict[str, Any]:
    """What of an object counts: not what the server keeps about it, nor its status."""
    if item is None:
        return {}
    metadata = item["metadata"]
    kept = {name: metadata[name] for name in ("name", "namespace", "labels") if metadata.get(name)}
    notes = {name: text for name, text in (metadata.get("annotations") or {}).items() if name != LAST_APPLIED}
    if notes:
        kept["annotations"] = notes
    rules = {name: item[name] for name in ("spec", "specs") if item.get(name) is not None}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": kept, **rules}


def lost_fields(wanted: Any, stored: Any, place: str = "") -> list[str]:
    """Places of what was written and what the server would not keep, such as a misspelt field: a policy
    without it means something else.
    """
    lost: list[str] = []
    if isinstance(wanted, Mapping):
        there = stored if isinstance(stored, Mapping) else {}
        for name, value in wanted.items():
            inner = f"{place}.{name}" if place else str(name)
            if name in there:
                lost += lost_fields(value, there[name], inner)
            elif value not in (None, [], {}, "", False):
                lost.append(inner)
    elif isinstance(wanted, list) and isinstance(stored, list):
        for number, (value, kept) in enumerate(zip(wanted, stored, strict=False)):
            lost += lost_fields(value, kept, f"{place}[{number}]")
    return lost


CREATE, REPLACE, DELETE, KEEP = "create", "replace", "delete", "keep"
DONE = {CREATE: "created", REPLACE: "changed", DELETE: "deleted", KEEP: "unchanged"}


@dataclass(frozen=True)
class Step:
    """What happens to one object. ``before`` and ``after`` are as the server has, or would have them."""

    action: str
    key: Key
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    def diff(self) -> dict[str, str]:
        """For Ansible's --diff."""
        return {
            "before_header": str(self.key),
            "after_header": str(self.key),
            "before": shown(self.before),
            "after": shown(self.after),
        }


def shown(item: Mapping[str, Any] | None) -> str:
    return json.dumps(essence(item), indent=2, sort_keys=True) + "\n" if item else ""


def steps_present(
    wanted: Sequence[Mapping[str, Any]],
    live: Mapping[Key, Mapping[str, Any]],
    checked: Mapping[Key, Mapping[str, Any]],
) -> list[Step]:
    """What to do so that the wanted objects are there. ``checked`` is what the server made of each in a dry
    run: defaults filled in, so that it can be compared.
    """
    steps = []
    for item in wanted:
        key = key_of(item)
        before, after = live.get(key), checked[key]
        if before is None:
            steps.append(Step(CREATE, key, None, after))
        elif essence(before) == essence(after):
            steps.append(Step(KEEP, key, before, before))
        else:
            steps.append(Step(REPLACE, key, before, after))
    return steps


def steps_absent(items: Iterable[Mapping[str, Any]]) -> list[Step]:
    """What to do so that these objects, which the cluster has, are gone."""
    return [Step(DELETE, key_of(item), item, None) for item in items]
