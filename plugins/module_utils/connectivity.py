# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Run the probes whose source is on this node, side by side, and ask its agent why something was dropped."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils import connectivity_probe as probe
from ansible_collections.podwire.ebpf.plugins.module_utils import connectivity_report as report
from ansible_collections.podwire.ebpf.plugins.module_utils.agent_client import AgentClient
from ansible_collections.podwire.ebpf.plugins.module_utils.connectivity_plan import ICMP, Objects, Probe
from ansible_collections.podwire.ebpf.plugins.module_utils.connectivity_probe import Answer
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl

MOST_AT_ONCE = 32
COMMAND_SLACK = 15.0
"""Seconds that a command may take beyond the timeout: kubectl has to reach the pod first."""
DEFAULT_PAYLOAD = "podwire\n"
EVENT_LOGS = ("/v1/verdicts", "/v1/drops")
MOST_EVENTS = 20000
HTTP_OK = 200
EVENTS_SETTLE = 0.3
"""Seconds until an agent has read what its datapath has just reported."""


def objects_of(kubectl: Kubectl) -> Objects:
    """The cluster's objects, asked of the API when they are needed."""
    return Objects(
        lambda namespace: kubectl.items("pods", "-n", namespace),
        lambda namespace, name: kubectl.get("service", name, namespace=namespace),
        lambda name: kubectl.get("node", name),
    )


class Runner:
    """Runs probes on the node ``node``. ``timeout`` in seconds, for one try."""

    def __init__(self, node: str, client: AgentClient, kubectl: Kubectl, timeout: float) -> None:
        self.node = node
        self.client = client
        self.kubectl = kubectl
        self.timeout = timeout
        self._namespaces: dict[str, str] = {}

    def run(self, probes: Sequence[Probe]) -> list[dict[str, Any]]:
        """A row of the result for each probe."""
        if not probes:
            return []
        if any(not item.command for item in probes):
            self._namespaces = self._find_namespaces()
        with ThreadPoolExecutor(min(MOST_AT_ONCE, len(probes))) as pool:
            return list(pool.map(self._row, probes))

    def explain(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
        """What this node's datapath says about rows that want a reason: index of the row to reason."""
        asked = {number: row for number, row in enumerate(rows) if report.wants_reason(row)}
        if not asked:
            return {}
        events = [event for log in EVENT_LOGS for event in self._events(log)]
        reasons = {number: report.reason_in(row, events) for number, row in asked.items()}
        return {number: reason for number, reason in reasons.items() if reason}

    def policies_say(self, item: Probe) -> str:
        """What policies mean for a probe between pods, by the rules alone; "" where nobody can tell."""
        if not (item.source.pod and item.target.pod):
            return ""
        question = {
            "src": {"pod": item.source.name},
            "dst": {"pod": item.target.name},
            "port": item.port if item.protocol != ICMP else probe.ECHO_REQUEST,
            "protocol": item.protocol,
        }
        status, answer = self.client.post("/v1/policy/trace", question, accept=(200, 400, 404))
        if status != HTTP_OK:
            return ""
        return "policies say: " + "; ".join(line.strip() for line in answer["text"].splitlines())

    def _events(self, log: str) -> list[dict[str, Any]]:
        # An agent that enforces no policies yet knows no verdicts.
        status, answer = self.client.get(f"{log}?limit={MOST_EVENTS}", accept=(200, 404))
        return list(answer["events"]) if status == HTTP_OK else []

    def _find_namespaces(self) -> dict[str, str]:
        """The network namespace of each pod of this node, by the pod's address."""
        _, answer = self.client.get("/v1/endpoints")
        return {endpoint["address"]: endpoint["netns"] for endpoint in answer["endpoints"]}

    def _row(self, item: Probe) -> dict[str, Any]:
        began = time.time()
        answer = self._command(item) if item.command else self._try(item)
        return {
            "number": item.number,
            "name": item.name,
            "from": item.source.name,
            "node": item.source.node,
            "to": item.target.name,
            "address": item.target.address,
            "port": item.port,
            "protocol": item.protocol,
            "expect": item.expect,
            "observed": answer.observed,
            "detail": answer.detail,
            "reason": "",
            "source_address": answer.source[0] or item.source.address,
            "source_port": answer.source[1],
            "began": began,
            "ended": time.time(),
        }

    def _try(self, item: Probe) -> Answer:
        path = ""
        if item.source.pod and item.source.own_network:
            found = self._namespaces.get(item.source.address)
            if found is None:
                return Answer(probe.ERROR, f"the agent of {self.node} knows no pod {item.source.address}")
            path = found
        address, timeout = item.target.address, self.timeout
        if item.protocol == ICMP:
            return probe.in_namespace(path, lambda: probe.icmp(address, timeout))
        if item.protocol == "UDP":
            payload = (item.payload or DEFAULT_PAYLOAD).encode()
            return probe.in_namespace(path, lambda: probe.udp(address, item.port, payload, timeout))
        return probe.in_namespace(path, lambda: probe.tcp(address, item.port, timeout))

    def _command(self, item: Probe) -> Answer:
        """Run the row's own command in its pod and judge by the exit status."""
        container = ["-c", item.container] if item.container else []
        words = self.kubectl.command("exec", "-n", item.source.namespace, item.source.pod, *container, "--")
        try:
            done = subprocess.run(
                [*words, *item.command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout + COMMAND_SLACK,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(probe.DENIED, f"the command did not end in {self.timeout + COMMAND_SLACK:g} s")
        except OSError as error:
            return Answer(probe.ERROR, f"{words[0]}: {error.strerror}")
        said = (done.stderr.strip() or done.stdout.strip())[-300:]
        if done.returncode == 0:
            return Answer(probe.ALLOWED, done.stdout.strip()[-300:])
        return Answer(
            item.statuses.get(done.returncode, probe.ERROR), f"exit status {done.returncode}: {said}"
        )


def split(probes: Sequence[Probe], node: str) -> tuple[list[Probe], list[Probe]]:
    """The probes that can be made on a node, and the others: those that start there, and commands, which the
    API carries to their pods. Pure.
    """
    here = [item for item in probes if item.command or item.source.node == node]
    return here, [item for item in probes if item not in here]


def result(rows: Sequence[Mapping[str, Any]], elsewhere: Sequence[Probe]) -> dict[str, Any]:
    """What the module returns. Pure."""
    return {
        "total": len(rows) + len(elsewhere),
        "rows": list(rows),
        "table": report.table(rows),
        "mismatches": list(report.mismatches(rows)),
        "elsewhere": sorted({f"{item.source.name} on {item.source.node}" for item in elsewhere}),
    }


def judge(found: dict[str, Any], *, partial: bool) -> None:
    """Raises PodwireError for a mismatch, and unless ``partial`` for rows that start on other nodes. Pure."""
    if found["elsewhere"] and not partial:
        raise PodwireError(
            f"not everything starts on this node: {', '.join(found['elsewhere'])}",
            "Run it on every node (role podwire.ebpf.connectivity does).",
            found,
        )
    if found["mismatches"]:
        raise PodwireError(report.verdict(found["rows"]), "See the table.", found)
