"""The agent and policies: what goes on when something is wrong, and what it says about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podwire.cli.bpf import read_policies
from tests.unit.kube.cluster_api import (
    CILIUM_CLUSTERWIDE_POLICIES,
    CILIUM_POLICIES,
    EVENTS,
    IDENTITIES,
    NODE_ENDPOINTS,
)

from .lab import REPOSITORY, Network, Node, Pod, eventually
from .policy_cluster import PolicyCluster, cnp, from_app, knp, policy_cluster, reaches

KIND = "CiliumNetworkPolicy"


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[PolicyCluster]:
    with policy_cluster(network, tmp_path) as cluster:
        yield cluster


@pytest.fixture
def trio(cluster: PolicyCluster) -> tuple[Node, Pod, Pod]:
    """A node, a pod that serves on 80 and is open for the app ``cli`` alone, and one of that app."""
    node = cluster.enforcing()
    web, cli = cluster.add_pod(node, "web", app="web"), cluster.add_pod(node, "cli", app="cli")
    cluster.serve(web, 80)
    cluster.apply(cnp("web", {"app": "web"}, ingress=[from_app("cli", 80)]))
    return node, web, cli


def podwire(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as an administrator of the node uses it."""
    return subprocess.run(
        [sys.executable, "-m", "podwire.cli.main", "--socket", str(node.run_dir / "agent.sock"), *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def condition(cluster: PolicyCluster, name: str) -> dict[str, Any]:
    value = cluster.api.get(CILIUM_POLICIES, f"default/{name}") or {}
    return next(iter((value.get("status") or {}).get("conditions") or []), {})


def policy_of(node: Node, pod: Pod) -> dict[str, Any]:
    value: dict[str, Any] = node.get(f"/v1/endpoints/{pod.address}")["policy"]
    return value


def test_policies_outlive_the_agent_and_the_api(cluster: PolicyCluster, trio: tuple[Node, Pod, Pod]) -> None:
    node, web, cli = trio
    other = cluster.add_pod(node, "other", app="other")
    before = policy_of(node, web)
    node.kill(signal.SIGKILL)
    assert reaches(cli, web.address, 80)
    assert not reaches(other, web.address, 80)
    cluster.api.fail()
    node.start(wait=False)
    eventually(node.reachable)
    time.sleep(2)  # several looks around
    assert reaches(cli, web.address, 80)
    assert not reaches(other, web.address, 80)
    assert not node.get("/v1/status")["policies"]["synced"]
    # What changed meanwhile is in force as soon as the API tells.
    cluster.api.put(CILIUM_POLICIES, cnp("web", {"app": "web"}, ingress=[from_app("other", 80)]))
    cluster.api.fail(failing=False)
    eventually(lambda: node.get("/v1/status")["policies"]["synced"], 40)
    assert not reaches(cli, web.address, 80)
    assert reaches(other, web.address, 80)
    assert policy_of(node, web)["number"] != before["number"]


def test_an_agent_that_starts_again_writes_nothing_anew(
    cluster: PolicyCluster, trio: tuple[Node, Pod, Pod]
) -> None:
    node, web, cli = trio
    before = policy_of(node, web)
    slots = {key: value["revision"] for key, value in node.datapath.map("podwire_slots").items()}
    assert any(slots.values())
    node.kill(signal.SIGKILL)
    node.start()
    eventually(lambda: node.get("/v1/status")["policies"]["synced"], 20)
    assert policy_of(node, web)["number"] == before["number"]
    assert node.get("/v1/status")["policies"]["maps_written"] == 0
    assert reaches(cli, web.address, 80)


def test_an_object_that_becomes_invalid_stays_in_force_as_it_was(
    cluster: PolicyCluster, trio: tuple[Node, Pod, Pod]
) -> None:
    node, web, cli = trio
    other = cluster.add_pod(node, "other", app="other")
    eventually(lambda: condition(cluster, "web").get("status") == "True")
    cluster.apply(cnp("web", {"app": "web"}, ingress=[{"fromEntities": ["everyone"]}]))
    eventually(lambda: condition(cluster, "web").get("status") == "False")
    message = condition(cluster, "web")["message"]
    assert "everyone" in message
    assert "Generation 1 stays in force" in message
    node.kill(signal.SIGKILL)
    node.start()
    eventually(lambda: node.get("/v1/status")["policies"]["synced"], 20)
    assert reaches(cli, web.address, 80)
    assert not reaches(other, web.address, 80)
    (problem,) = [text for text in node.get("/v1/status")["problems"] if "invalid" in text]
    assert problem.startswith("CiliumNetworkPolicy/default/web is invalid: ")
    eventually(lambda: any(e["reason"] == "InvalidPolicy" for e in cluster.all(EVENTS)))
    (listed,) = node.get("/v1/policies")["policies"]
    assert (listed["valid"], listed["in_force_generation"], listed["generation"]) == (False, 1, 2)
    cluster.apply(cnp("web", {"app": "web"}, ingress=[from_app("other", 80)]))
    eventually(lambda: condition(cluster, "web").get("status") == "True")
    assert reaches(other, web.address, 80)
    assert not (node.state / "policies-last-valid.json").exists()


def test_one_agent_says_what_all_know(cluster: PolicyCluster) -> None:
    for _ in range(3):
        cluster.enforcing()
    cluster.apply(cnp("wrong", {"app": "web"}, ingress=[{"fromEntities": ["everyone"]}]))
    eventually(lambda: condition(cluster, "wrong").get("status") == "False")
    assert "Nothing of it is enforced" in condition(cluster, "wrong")["message"]
    time.sleep(4.5)
    written = [path for _, path in cluster.api.requests if path.endswith("/wrong/status")]
    assert 1 <= len(written) <= 2  # two may begin at the same moment


def test_a_policy_too_large_for_a_map_closes_the_endpoint(cluster: PolicyCluster) -> None:
    node = cluster.enforcing()
    web, cli = cluster.add_pod(node, "web", app="web"), cluster.add_pod(node, "cli", app="cli")
    cluster.serve(web, 80)
    for number in range(2300):
        labels = {"k8s:many": str(number), "k8s:io.kubernetes.pod.namespace": "default"}
        value = {"metadata": {"name": str(2000 + number)}, "spec": {"labels": labels}}
        cluster.api.put(IDENTITIES, value)
    many = {"fromEndpoints": [{"matchExpressions": [{"key": "many", "operator": "Exists"}]}]}
    ports = {"toPorts": [{"ports": [{"port": "1", "endPort": 65534, "protocol": "TCP"}]}]}
    cluster.apply(cnp("web", {"app": "web"}, ingress=[{**many, **ports}, from_app("cli")]))
    eventually(lambda: policy_of(node, web)["problem"], 20)
    assert policy_of(node, web)["number"] == 1
    assert "comes to more than 65536 entries" in policy_of(node, web)["problem"]
    assert not reaches(cli, web.address, 80)
    assert not reaches(node, web.address, 80)
    problems = (cluster.api.get(NODE_ENDPOINTS, node.name) or {})["status"]["problems"]
    assert any("default/web is closed" in text for text in problems)
    # One for each size that was too large, while the identities come in.
    event, *_ = eventually(lambda: [e for e in cluster.all(EVENTS) if e["reason"] == "PolicyNotEnforceable"])
    assert event["involvedObject"]["name"] == "web"
    assert reaches(web, cli.address, 22) is False  # closed in both directions
    cluster.apply(cnp("web", {"app": "web"}, ingress=[from_app("cli")]))
    assert reaches(cli, web.address, 80)
    assert not policy_of(node, web)["problem"]


def test_labels_of_a_running_pod_count_at_once(cluster: PolicyCluster, trio: tuple[Node, Pod, Pod]) -> None:
    node, web, cli = trio
    assert reaches(cli, web.address, 80)
    cluster.pod(node, "cli", {"app": "other"})
    eventually(lambda: not reaches(cli, web.address, 80, 0.3), 5)
    cluster.pod(node, "cli", {"app": "cli"})
    eventually(lambda: reaches(cli, web.address, 80, 0.3), 5)
    cluster.pod(node, "web", {"app": "free"})
    cluster.pod(node, "cli", {"app": "other"})
    eventually(lambda: reaches(cli, web.address, 80, 0.3), 5)


def test_audit_lets_pass_and_says_so(cluster: PolicyCluster) -> None:
    node = cluster.enforcing(policy={"audit": True})
    web, cli = cluster.add_pod(node, "web", app="web"), cluster.add_pod(node, "cli", app="cli")
    cluster.serve(web, 80)
    cluster.apply(cnp("web", {"app": "web"}, ingress=[{}]))
    assert reaches(cli, web.address, 80)
    assert policy_of(node, web)["ingress"] == "Audit"
    events = eventually(lambda: node.get("/v1/verdicts")["events"])
    assert ("audited", 133) in {(event["verdict"], event["reason"]) for event in events}


def test_modes(cluster: PolicyCluster) -> None:
    always = cluster.enforcing(policy={"enforcement": "always"})
    never = cluster.enforcing(policy={"enforcement": "never"})
    for node in (always, never):
        cluster.serve(cluster.add_pod(node, f"web{node.number}", app="web"), 80)
    outside = cluster.add_pod(never, "cli", app="cli")
    closed, open_ = always.pods["web1"], never.pods["web2"]
    cluster.apply(cnp("web", {"app": "web"}, ingress=[{}]))
    assert not reaches(outside, closed.address, 80)
    assert reaches(always, closed.address, 80)
    assert reaches(outside, open_.address, 80)
    cluster.remove(KIND, "web")
    assert not reaches(outside, closed.address, 80)


def test_kinds_that_are_not_served_are_no_obstacle(network: Network, tmp_path: Path) -> None:
    with policy_cluster(network, tmp_path) as cluster:
        for collection in (CILIUM_POLICIES, CILIUM_CLUSTERWIDE_POLICIES):
            del cluster.api.objects[collection]
        node = cluster.enforcing()
        web, cli = cluster.add_pod(node, "web", app="web"), cluster.add_pod(node, "cli", app="cli")
        cluster.serve(web, 80)
        assert reaches(cli, web.address, 80)
        cluster.apply(knp("web", {"app": "web"}, policyTypes=["Ingress"]))
        assert not reaches(cli, web.address, 80)
        problems = node.get("/v1/status")["problems"]
        assert any("serves no ciliumnetworkpolicies" in text for text in problems)
        cluster.api.serve(CILIUM_POLICIES, CILIUM_CLUSTERWIDE_POLICIES)
        cluster.apply(cnp("open", {"app": "web"}, ingress=[from_app("cli")]))
        assert reaches(cli, web.address, 80)


def test_what_the_command_says(cluster: PolicyCluster, trio: tuple[Node, Pod, Pod]) -> None:
    node, web, _ = trio
    other = cluster.add_pod(node, "other", app="other")
    assert not reaches(other, web.address, 80)
    done = podwire(node, "policy", "get")
    assert "CiliumNetworkPolicy/default/web" in done.stdout
    assert "default/web" in done.stdout
    done = podwire(node, "policy", "get", "web")
    assert "endpoints k8s:app=cli" in done.stdout or "app=cli" in done.stdout
    assert "80/TCP" in done.stdout
    done = podwire(node, "endpoint", "get", "web")
    assert "CiliumNetworkPolicy/default/web spec.ingress[0]" in done.stdout
    assert "reserved/allow-localhost" in done.stdout
    done = podwire(node, "endpoint", "list", "-o", "json")
    policies = {item["pod_name"]: item["policy"] for item in json.loads(done.stdout)}
    assert (policies["web"]["ingress"], policies["web"]["egress"]) == ("Enabled", "Disabled")
    assert (policies["cli"]["number"], policies["cli"]["ingress"]) == (0, "Disabled")
    done = podwire(node, "identity", "list", "-o", "json")
    labels = {label for item in json.loads(done.stdout) for label in item["labels"]}
    assert {"k8s:app=web", "k8s:app=cli", "reserved:world"} <= labels
    done = podwire(node, "monitor", "--type", "drop,policy-verdict")
    assert "ingress DENIED none policy (133) TCP" in done.stdout
    assert "default app=other]" in done.stdout
    traced = podwire(node, "policy", "trace", "--src", "default/cli", "--dst", "web", "--dport", "80")
    assert traced.returncode == 0, traced.stdout + traced.stderr
    assert "verdict: allowed" in traced.stdout
    assert "in force here, ingress of default/web: allowed" in traced.stdout
    traced = podwire(node, "policy", "trace", "--src", other.address, "--dst", "web", "--dport", "80/tcp")
    assert traced.returncode == 1
    assert "CiliumNetworkPolicy/default/web closes this direction" in traced.stdout
    assert "in force here, ingress of default/web: denied" in traced.stdout
    done = podwire(node, "policy", "trace", "--src", "default/none", "--dst", "web", "--dport", "80")
    assert "there is no pod default/none" in done.stderr


def test_maps_can_be_read_without_the_agent(
    trio: tuple[Node, Pod, Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, web, _ = trio
    number = policy_of(node, web)["number"]
    node.kill(signal.SIGKILL)
    monkeypatch.setattr("podwire.cli.bpf.Datapath", lambda: node.datapath)
    rows = read_policies()
    (row,) = [row for row in rows if row["ports"] == "80"]
    assert (row["policy"], row["direction"], row["protocol"]) == (number, "ingress", "TCP")
    assert (row["verdict"], row["match"]) == ("allow", "L3-L4")
    assert ("1", "*") in {(row["peer"], row["ports"]) for row in rows}  # the node itself
