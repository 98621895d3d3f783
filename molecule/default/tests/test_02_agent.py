"""The agent may die, be away, and come back: traffic does not notice, and nothing is lost."""

from __future__ import annotations

import json

from tests.e2e.support import NAMESPACE, QUEUED, eventually, finished

AGENT_PID = "systemctl show -p MainPID --value podwire-agent"


def test_killed_under_traffic_loses_no_packet(pods, on_node, agent) -> None:
    """Pings every 10 ms and a request-response load between two nodes while both agents are killed, twice."""
    source, target = pods.on("worker1")[0], pods.on("worker2")[0]
    pings = pods.start(source, f"ping -q -i 0.01 -c 800 -W 2 {target.address}")
    load = pods.start(source, f"netperf -H {target.address} -t TCP_RR -l 8")
    for _ in range(2):
        for node in ("worker1", "worker2"):
            before = on_node(node, AGENT_PID).strip()
            on_node(node, f"kill -9 {before}")
            eventually(
                lambda node=node, before=before: on_node(node, AGENT_PID).strip() not in ("0", before),
                "a new agent",
            )
    assert "800 packets transmitted, 800 received, 0% packet loss" in finished(pings, 40)
    finished(load, 40)
    for node in ("worker1", "worker2"):
        eventually(lambda node=node: agent_ready(agent, node), f"the agent of {node} is ready")


def agent_ready(agent, node: str) -> bool:
    try:
        return agent(node, "/v1/status")["ready"]
    except ValueError:
        return False


def names(agent, node: str) -> set[str]:
    return {endpoint["pod_name"] for endpoint in agent(node, "/v1/endpoints")["endpoints"]}


def test_pod_deleted_while_the_agent_is_away_is_forgotten_later(pods, cluster, on_node, agent) -> None:
    victim = pods.on("worker1")[1]
    assert victim.name in names(agent, "worker1")
    on_node("worker1", "systemctl stop podwire-agent")
    try:
        cluster.run("-n", NAMESPACE, "delete", "pod", victim.name, "--wait=false")
        eventually(lambda: on_node("worker1", QUEUED).strip(), "the deletion is on disk")
    finally:
        on_node("worker1", "systemctl start podwire-agent")
    eventually(lambda: agent_ready(agent, "worker1"), "the agent is ready")
    eventually(lambda: not on_node("worker1", QUEUED).strip(), "the queue is empty")
    assert victim.name not in names(agent, "worker1")
    # kubelet may take a minute to forget the pod itself; then its successor comes.
    eventually(lambda: victim.name not in pods_on(cluster, "worker1"), "kubelet forgets the pod", timeout=120)
    pods.refresh()
    assert {pod.name for pod in pods.on("worker1")} <= names(agent, "worker1")


def pods_on(cluster, node: str) -> list[str]:
    items = cluster.read("-n", NAMESPACE, "get", "pods", f"--field-selector=spec.nodeName={node}")["items"]
    return [item["metadata"]["name"] for item in items]


def test_what_the_command_shows_is_what_the_cluster_has(pods, on_node) -> None:
    for node in pods.lab.nodes:
        shown = json.loads(on_node(node, "podwire endpoint list -o json"))
        listed = {item["address"] for item in (shown["endpoints"] if isinstance(shown, dict) else shown)}
        assert {pod.address for pod in pods.on(node)} <= listed
