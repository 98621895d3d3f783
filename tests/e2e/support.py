"""What tests on a lab do with its pods, and how they wait."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab import checks
from lab.config import Lab

# Of this run alone: a namespace that is being deleted takes no new pods.
NAMESPACE = f"podwire-e2e-{secrets.token_hex(2)}"
# Deletions that a node keeps for its agent. The first one makes the directory.
QUEUED = "[ ! -d /var/lib/podwire/cni-queue ] || ls /var/lib/podwire/cni-queue"


@dataclass(frozen=True)
class Pod:
    name: str
    node: str
    address: str


class Pods:
    """Two probe pods on every node, with servers for HTTP, UDP, netperf and iperf3."""

    def __init__(self, lab: Lab, cluster: checks.Cluster) -> None:
        self.lab = lab
        self.cluster = cluster
        objects = {"apiVersion": "v1", "kind": "List", "items": checks.manifest(NAMESPACE)}
        cluster.run("apply", "-f", "-", stdin=json.dumps(objects))
        self.refresh()

    def refresh(self) -> None:
        """Find the pods again: their addresses change when they are made anew."""
        found = checks.wait_for_pods(self.cluster, NAMESPACE, print)
        self.all = [
            Pod(name, node, address) for node in self.lab.nodes for name, address in found[node].items()
        ]

    def on(self, node: str) -> list[Pod]:
        return [pod for pod in self.all if pod.node == node]

    def command(self, pod: Pod, script: str) -> list[str]:
        """The command that runs a script in a pod."""
        kubectl = [str(self.cluster.binary), f"--kubeconfig={self.lab.state / 'kubeconfig'}", "-n", NAMESPACE]
        return [*kubectl, "exec", pod.name, "--", "/bin/sh", "-c", script]

    def run(self, pod: Pod, script: str, timeout: float = 60) -> str:
        done = subprocess.run(
            self.command(pod, script), capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{script!r} in {pod.name} on {pod.node}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, pod: Pod, script: str) -> subprocess.Popen[str]:
        """Run a script in a pod beside what the test does next."""
        return subprocess.Popen(
            self.command(pod, script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def finished(process: subprocess.Popen[str], timeout: float) -> str:
    """The output of a command that must succeed within ``timeout`` seconds."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


@dataclass(frozen=True)
class Played:
    """What a playbook did: status, tasks that changed something by host, whole output."""

    status: int
    changed: dict[str, int]
    output: str


def eventually(condition: Callable[[], Any], what: str, timeout: float = 30, pause: float = 0.5) -> Any:
    """Wait until a condition gives something true, and return that."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(pause)
    return value
