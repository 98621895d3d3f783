"""A node that reboots has its network back by itself, in the mode it was in, and its neighbours go on."""

from __future__ import annotations

import json

from lab import nodes
from tests.e2e.support import NAMESPACE, QUEUED, eventually, finished

NODE = "worker2"
READY_SECONDS = 60


def switch(on_node, mode: str) -> None:
    body = json.dumps({"mode": mode})
    on_node(
        NODE,
        f"curl -sf -X PUT -d '{body}' --unix-socket /run/podwire/agent.sock http://agent/v1/host-routing",
    )


def ready(on_node, agent) -> bool:
    """A shell that fails while the agent is not there yet prints nothing."""
    try:
        return agent(NODE, "/v1/status")["ready"]
    except ValueError:
        return False


def test_reboot(lab, pods, on_node, agent, works) -> None:
    """Host routing is switched and a pod deleted behind the agent's back just before the reboot."""
    former = agent(NODE, "/v1/status")["datapath"]["mode"]
    switch(on_node, "legacy")
    on_node(NODE, "systemctl stop podwire-agent")
    pods.cluster.run("-n", NAMESPACE, "delete", "pod", pods.on(NODE)[0].name, "--wait=false")
    eventually(lambda: on_node(NODE, QUEUED).strip(), "the deletion is on disk")
    source, target = pods.on("cp1")[0], pods.on("worker1")[0]
    others = pods.start(source, f"ping -q -i 0.05 -c 240 -W 2 {target.address}")
    nodes.reboot(lab, NODE)
    eventually(lambda: ready(on_node, agent), "the agent is ready", timeout=READY_SECONDS)
    assert " 0% packet loss" in finished(others, 30)

    status = agent(NODE, "/v1/status")
    assert status["datapath"]["mode"] == "legacy"
    assert status["problems"] == []
    eventually(lambda: not on_node(NODE, QUEUED).strip(), "the queue is empty")
    pods.refresh()
    here = {pod.address for pod in pods.on(NODE)}
    known = agent(NODE, "/v1/endpoints")["endpoints"]
    assert here == {item["address"] for item in known if item["pod_namespace"] == NAMESPACE}
    works()
    switch(on_node, former)
    works()
