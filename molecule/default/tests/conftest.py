"""What the tests of a converged lab share. They run in order of file names; the last remove the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from lab import checks, dns, nodes, rollout, up  # noqa: E402
from lab.config import DEFAULT_NAME, Lab  # noqa: E402
from lab.progress import Progress  # noqa: E402
from tests.e2e.collect import collect  # noqa: E402
from tests.e2e.support import NAMESPACE, Played, Pods  # noqa: E402


@pytest.fixture(scope="session")
def lab() -> Lab:
    """The lab that the scenario made, with credentials for kubectl."""
    found = up.existing(os.environ.get("LAB") or DEFAULT_NAME)
    up.write_kubeconfig(found)
    return found


@pytest.fixture(scope="session")
def cluster(lab: Lab) -> checks.Cluster:
    """The cluster, with the DNS that `make up` gives a lab."""
    found = checks.Cluster(lab)
    dns.ensure(found, print)
    return found


@pytest.fixture(scope="session")
def pods(lab: Lab, cluster: checks.Cluster) -> Iterator[Pods]:
    yield Pods(lab, cluster)
    cluster.run("delete", "namespace", NAMESPACE, "--wait=false", check=False)


@pytest.fixture(scope="session")
def on_node(lab: Lab) -> Callable[..., str]:
    """Run a command on a node and return its output."""

    def run(node: str, command: str, *, check: bool = True, timeout: float = 60) -> str:
        return nodes.ssh(lab, node, [command], check=check, timeout=timeout).stdout

    return run


@pytest.fixture(scope="session")
def agent(on_node: Callable[..., str]) -> Callable[[str, str], Any]:
    """Ask a node's agent: ``agent("worker1", "/v1/status")``."""

    def ask(node: str, resource: str) -> Any:
        return json.loads(
            on_node(node, f"curl -s --unix-socket /run/podwire/agent.sock 'http://agent{resource}'")
        )

    return ask


@pytest.fixture(scope="session")
def playbook(lab: Lab) -> Callable[..., Played]:
    """Run a playbook against the lab as a user would."""

    def run(name: str, *arguments: str) -> Played:
        command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", "inventories/lab", name, *arguments]
        environment = {**rollout.environment(lab), "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        follower = rollout.Follower()
        for line in done.stdout.splitlines():
            follower.feed(line)
        return Played(done.returncode, follower.changed, done.stdout + done.stderr)

    return run


@pytest.fixture
def works(lab: Lab, cluster: checks.Cluster) -> Callable[..., checks.Matrix]:
    """Try every connection of the lab; fails with those that do not work.

    ``addresses=False`` asks for answers alone, not for the address by which the source is seen.
    """

    def check(*, addresses: bool = True) -> checks.Matrix:
        matrix = checks.run(lab, Progress(Console(quiet=True), lab.state / "logs"))
        broken = {flow.name: problem for flow, problem in matrix.problems.items()}
        assert not {name: what for name, what in broken.items() if addresses or " saw " not in what}
        return matrix

    return check


@pytest.fixture(scope="session", autouse=True)
def kubelite_restarts(lab: Lab, on_node: Callable[..., str]) -> dict[str, int]:
    """How often systemd had restarted each node's kubelite when the tests began."""
    command = "systemctl show -p NRestarts --value snap.microk8s.daemon-kubelite"
    return {node: int(on_node(node, command)) for node in lab.nodes}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep the nodes' journals, maps and counters as they were when a test failed."""
    report = yield
    if report.when == "call" and report.failed:
        folder = collect(up.existing(os.environ.get("LAB") or DEFAULT_NAME), ROOT / "build/failures")
        report.sections.append(("what the nodes say", str(folder)))
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Tell destroy.yml that there is nothing to keep."""
    if exitstatus == 0 and session.testscollected:
        (up.existing(os.environ.get("LAB") or DEFAULT_NAME).state / "verified").touch()
