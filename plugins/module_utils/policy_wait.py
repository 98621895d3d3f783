# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Wait until every node enforces what the API has stored.

Each node's agent writes into its ``NodeEndpoints`` object up to which resource version of each kind its
kernel enforces policies. A policy counts as enforced when every Node has reached its version.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl, KubectlError
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_objects import Key

RESOURCE = "nodeendpoints.podwire.io"
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


@dataclass(frozen=True)
class NodeState:
    """What one node's agent reports; ``observed`` is None when there is no report of it."""

    name: str
    observed: Mapping[str, int] | None = None
    problems: tuple[str, ...] = ()

    def behind(self, versions: Mapping[str, int]) -> str:
        """Why this node does not enforce these versions yet; empty when it does. Pure."""
        if self.observed is None:
            reason = "nothing is reported of it, so its agent may not run (systemctl status podwire-agent)"
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


def refused(keys: Iterable[Key], states: Iterable[NodeState]) -> list[str]:
    """What nodes say of these objects: they are known, and not enforced because they are wrong. Pure."""
    said = sorted({problem for state in states for problem in state.problems})
    return [problem for key in keys for problem in said if names(problem, key)]


def names(problem: str, key: Key) -> bool:
    """Whether a sentence is about an object."""
    return str(key) in re.split(r"[\s,;:]+", problem)


@dataclass
class Waited:
    """How the wait went. ``seconds`` is how long it took until the last node followed."""

    seconds: float = 0.0
    nodes: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What nodes say is wrong, about other objects."""


class Enforcement:
    """Watches the nodes catch up. ``timeout`` in seconds."""

    def __init__(self, kubectl: Kubectl, timeout: float) -> None:
        self.kubectl = kubectl
        self.timeout = timeout

    def wait(self, versions: Mapping[str, int], keys: Iterable[Key]) -> Waited:
        """Return when every node enforces these versions. Raises PodwireError that names the objects that are
        wrong, or the nodes that lag and why.
        """
        began = time.monotonic()
        keys, pause = list(keys), FIRST_PAUSE
        while True:
            states = self._states()
            late = {state.name: text for state in states if (text := state.behind(versions))}
            # What a node that lags says may be about the version before.
            if bad := refused(keys, [state for state in states if state.name not in late]):
                raise PodwireError(
                    f"stored, but not valid, so that nothing has changed: {'; '.join(bad)}",
                    "Correct the policy.",
                    {"invalid": bad},
                )
            if not late:
                return Waited(
                    round(time.monotonic() - began, 3),
                    {state.name: dict(state.observed or {}) for state in states},
                    [f"{state.name}: {problem}" for state in states for problem in state.problems],
                )
            if time.monotonic() - began > self.timeout:
                named = "; ".join(late.values())
                raise PodwireError(
                    f"stored, but not enforced everywhere within {self.timeout:g} s: {named}",
                    "See on that node: podwire status; journalctl -u podwire-agent.",
                    {"lagging": list(late.values())},
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
