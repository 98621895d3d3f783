"""``podwire service`` and the module service_info, asked of a real agent with a datapath."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from .lab import REPOSITORY, Network, Node, eventually
from .objects import endpoint, port, service, slice_of

CLUSTER_IP = "10.202.0.10"


@pytest.fixture
def node(network: Network, make_node: Callable[..., Node]) -> Node:
    node = make_node(kube_proxy_replacement=True)
    pod = node.add("web")
    network.write_services(
        service(
            "web", CLUSTER_IP, port(80, 8080, nodePort=30080), type="NodePort", externalIPs=[node.address]
        ),
        slice_of(
            "web", [endpoint(pod.address, node.name), endpoint("10.201.9.9", ready=False)], {"port": 8080}
        ),
        service("db", "None", port(5432)),
    )
    eventually(lambda: node.get("/v1/services").get("services"))
    return node


def command(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "podwire.cli.main", "--socket", str(node.run_dir / "agent.sock"), *arguments],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
    )  # fmt: skip


def module(node: Node, **options: Any) -> dict[str, Any]:
    """Run the module as Ansible does on a node."""
    path = REPOSITORY / "plugins" / "modules" / "service_info.py"
    done = subprocess.run(
        [sys.executable, str(path)],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {"socket": str(node.run_dir / "agent.sock"), **options}}),
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "collections")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_the_command_shows_frontends_backends_and_problems(node: Node) -> None:
    listed = command(node, "service", "list")
    assert listed.returncode == 0, listed.stderr
    assert f"{CLUSTER_IP}:80/TCP" in listed.stdout
    assert "*:30080/TCP" in listed.stdout
    assert "headless" in listed.stdout
    assert f"external IP {node.address} is the address of a node" in listed.stdout

    shown = json.loads(command(node, "service", "get", "web", "-o", "json").stdout)
    assert [(item["state"], item["in_use"]) for item in shown["backends"]] == [
        ("ready", True),
        ("not ready", False),
    ]
    assert "10.201.9.9:8080/TCP" in command(node, "service", "get", "default/web").stdout

    missing = command(node, "service", "get", "nobody")
    assert missing.returncode == 1
    assert "default/nobody" in missing.stderr


def test_the_module_returns_the_same_as_data(node: Node) -> None:
    everything = module(node)
    assert (everything["changed"], everything["enabled"], everything["synced"]) == (False, True, True)
    assert [item["name"] for item in everything["services"]] == ["db", "web"]
    assert [item["reason"] for item in everything["problems"]] == ["NodeAddress"]
    [one] = module(node, name="web")["services"]
    assert [(item["node"], item["local"]) for item in one["backends"]] == [(node.name, True), (None, False)]
    assert module(node, name="nobody")["services"] == []


def test_both_say_so_when_kube_proxy_does_the_work(make_node: Callable[..., Node]) -> None:
    plain = make_node()
    assert "left to kube-proxy" in command(plain, "service", "list").stdout
    assert module(plain) | {"invocation": None} == {
        "changed": False, "enabled": False, "synced": False, "services": [], "problems": [],
        "invocation": None,
    }  # fmt: skip
