"""Module connectivity with real pods, agents and policies: what it observes, and the reasons for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import connectivity_report as report
from ansible_collections.podwire.ebpf.plugins.module_utils.agent_client import AgentClient
from ansible_collections.podwire.ebpf.plugins.module_utils.connectivity import Runner
from ansible_collections.podwire.ebpf.plugins.module_utils.connectivity_plan import Place, Probe
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout

from .lab import Network, Node, Pod, eventually
from .policy_cluster import PolicyCluster, cnp, from_app, policy_cluster


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[PolicyCluster]:
    with policy_cluster(network, tmp_path) as cluster:
        yield cluster


def place(pod: Pod, node: Node) -> Place:
    return Place(f"default/{pod.name}", pod.address, node.name, "default", pod.name)


def runner(node: Node, tmp_path: Path) -> Runner:
    client = AgentClient(str(node.run_dir / "agent.sock"))
    return Runner(node.name, client, Kubectl(Layout(tmp_path)), timeout=0.7)


def test_what_is_observed_and_why(cluster: PolicyCluster, tmp_path: Path) -> None:
    near, far = cluster.enforcing(), cluster.enforcing()
    web, cli = cluster.add_pod(near, "web", app="web"), cluster.add_pod(near, "cli", app="cli")
    other = cluster.add_pod(far, "other", app="other")
    cluster.serve(web, 80)
    cluster.serve(cli, 53, "udp")
    cluster.apply(cnp("web", {"app": "web"}, ingress=[from_app("cli", 80, 81)]))
    to_web, to_cli = place(web, near), place(cli, near)

    here = runner(near, tmp_path).run(
        [
            Probe("", to_cli, to_web, 80, "TCP", "allowed"),
            Probe("", to_cli, to_web, 81, "TCP", "refused"),
            Probe("", to_cli, to_web, 82, "TCP", "denied"),
            Probe("", to_cli, to_web, 0, "ICMP", "denied"),
            Probe("", to_web, to_cli, 0, "ICMP", "allowed"),
            Probe("", to_web, to_cli, 53, "UDP", "allowed"),
            Probe("", to_web, to_cli, 54, "UDP", "refused"),
        ]
    )
    assert [row["observed"] for row in here] == [row["expect"] for row in here], report.table(here)
    told = eventually(lambda: len(found := runner(near, tmp_path).explain(here)) == 2 and found)
    assert set(told) == {2, 3}
    assert "(133), at ingress, from identity" in told[2]
    assert "k8s:app=cli" in told[2]

    # A packet that came a long way is dropped where it arrives: that node's agent tells why.
    (row,) = runner(far, tmp_path).run([Probe("", place(other, far), to_web, 80, "TCP", "allowed")])
    assert row["observed"] == "denied"
    assert runner(far, tmp_path).explain([row]) == {}
    reason = eventually(lambda: runner(near, tmp_path).explain([row]))[0]
    assert "(133), at ingress" in reason
    assert "k8s:app=other" in reason

    said = runner(far, tmp_path).policies_say(Probe("", place(other, far), to_web, 80, "TCP", "allowed"))
    assert said.startswith("policies say: ")
    assert "closes this direction and nothing allows it" in said

    # Something that should have been stopped: the rule that let it through.
    (row,) = runner(near, tmp_path).run([Probe("", to_cli, to_web, 80, "TCP", "denied")])
    reason = eventually(lambda: runner(near, tmp_path).explain([row]))[0]
    assert reason.startswith("allowed, at ingress")
    assert "CiliumNetworkPolicy/default/web spec.ingress[0]" in reason


def test_a_pod_that_the_agent_does_not_know_is_an_error(cluster: PolicyCluster, tmp_path: Path) -> None:
    node = cluster.enforcing()
    gone = Place("default/gone", "10.201.1.200", node.name, "default", "gone")
    (row,) = runner(node, tmp_path).run([Probe("", gone, Place("x", "10.201.1.1"), 80, "TCP", "denied")])
    assert (row["observed"], row["detail"]) == (
        "error",
        f"the agent of {node.name} knows no pod 10.201.1.200",
    )
