# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Wait until every node enforces what the API has stored.

Each node's agent writes into its ``NodeEndpoints`` object up to which resource version of each kind its
kernel enforces policies. A policy counts as enforced when every Node has reached its version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import (
    Kubectl,
    KubectlError,
    condition,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_objects import (
    CILIUM,
    CILIUM_CLUSTERWIDE,
    Key,
    key_of,
)

RESOURCE = "nodeendpoints.podwire.io"
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
JUDGED_KINDS = (CILIUM.name, CILIUM_CLUSTERWIDE.name)
"""Agents write into the status of these whether they are valid."""


@dataclass(frozen=True)
class NodeState:
    """What one node's agent reports; ``observed`` is None when there is no report of it."""

    name: str
    observed: Mapping[str, int] | None = None
    problems: tuple[str, ...] = ()

    def behind(self, versions: Mapping[str, int]) -> str:
        """Why this node does not enforce these versions yet; empty when it does. Pure."""
        if self.observed is None:
            reason = "nothing is reported of it: is its agent running (systemctl status podwire-agent)?"
            return f"{self.name}: {reason}"
        late = [
            f"{plural} at {self.observed.get(plural, 0) or 'none'}, wanted {version}"
            for plural, version in sorted(versions.items())
            if self.observed.get(plural, 0) < version
        ]
        if not late:
            return ""
        why = f" ({'; '.join(self.problems)})" if self.problems else ""
        return f"{self.name}: {', '.join(late)}{why}"


def node_states(nodes: Iterable[str], reports: Iterable[Mapping[str, Any]]) -> list[NodeState]:
    """The state of each node, from the NodeEndpoints objects. Pure."""
    known = {report["metadata"]["name"]: report.get("status") or {} for report in reports}
    return [
        NodeState(
            name,
            {kind: int(version or 0) for kind, version in (known[name].get("observed") or {}).items()},
            tuple(str(problem) for problem in known[name].get("problems") or []),
        )
        if name in known
        else NodeState(name)
        for name in sorted(nodes)
    ]


def verdict_on(item: Mapping[str, Any]) -> tuple[bool | None, str]:
    """What an object's status says of this generation of it: valid or not, and why; None when nothing.
    Pure.
    """
    valid = condition((item.get("status") or {}).get("conditions"), "Valid")
    generation = item["metadata"].get("generation") or 0
    if not valid or (valid.get("observedGeneration") or generation) < generation:
        return None, ""
    return valid.get("status") != "False", str(
        valid.get("message") or valid.get("reason") or "no reason given"
    )


def refused(items: Iterable[Mapping[str, Any]], states: Iterable[NodeState]) -> list[str]:
    """Objects that are not enforced because they are wrong, with the reason. Pure."""
    bad = []
    problems = sorted({problem for state in states for problem in state.problems})
    for item in items:
        key = key_of(item)
        good, why = verdict_on(item)
        if good is False:
            bad.append(f"{key}: {why}")
        else:
            bad += [problem for problem in problems if _names(problem, key)]
    return bad


def _names(problem: str, key: Key) -> bool:
    words = problem.replace(",", " ").replace(":", " ").replace(";", " ").split()
    return str(key) in words


def unjudged(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """Objects of whose validity the agents have not said anything yet. Pure."""
    return [str(key_of(i)) for i in items if i["kind"] in JUDGED_KINDS and verdict_on(i)[0] is None]


@dataclass
class Waited:
    """How the wait went. ``seconds`` is how long it took until the last node followed."""

    seconds: float = 0.0
    nodes: dict[str, dict[str, int]] = field(default_factory=dict)


class Enforcement:
    """Watches the nodes catch up. ``timeout`` in seconds."""

    def __init__(self, kubectl: Kubectl, timeout: float) -> None:
        self.kubectl = kubectl
        self.timeout = timeout

    def wait(
        self,
        versions: Mapping[str, int],
        keys: Iterable[Key],
        read: Callable[[Iterable[Key]], list[dict[str, Any]]],
    ) -> Waited:
        """Return when every node enforces these versions. Raises PodwireError that names the objects which
        are wrong, or the nodes that lag and why.
        """
        began = time.monotonic()
        keys, pause = list(keys), FIRST_PAUSE
        while True:
            states = self._states()
            late = [text for state in states if (text := state.behind(versions))]
            items = read(keys)
            if bad := refused(items, states if not late else ()):
                raise PodwireError(
                    f"stored, but not enforced, because not valid: {'; '.join(bad)}",
                    "Correct the policy; what was enforced before is unchanged.",
                    {"invalid": bad},
                )
            if not late:
                late = [f"{name}: no agent has said yet whether it is valid" for name in unjudged(items)]
            if not late:
                nodes = {state.name: dict(state.observed or {}) for state in states}
                return Waited(round(time.monotonic() - began, 3), nodes)
            if time.monotonic() - began > self.timeout:
                raise PodwireError(
                    f"stored, but not enforced everywhere within {self.timeout:g} s: {'; '.join(late)}",
                    "See on that node: podwire status; journalctl -u podwire-agent.",
                    {"lagging": late},
                )
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _states(self) -> list[NodeState]:
        names = [line.partition("/")[2] for line in self.kubectl.run("get", "nodes", "-o", "name").split()]
        try:
            reports = json.loads(self.kubectl.run("get", RESOURCE, "-o", "json"))["items"]
        except KubectlError as error:
            if "doesn't have a resource type" not in str(error):
                raise
            raise PodwireError(
                f"nodes do not report what they enforce in this cluster: {error}",
                "Roll out this version of podwire first (playbook podwire.ebpf.site), or do not wait.",
            ) from error
        return node_states(names, reports)
