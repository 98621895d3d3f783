"""Whom the agent probes."""

from __future__ import annotations

from podwire.agent.health import Target, targets
from podwire.agent.model import NodeInfo


def test_only_nodes_that_announce_an_agent_are_probed() -> None:
    nodes = (
        NodeInfo("self", "10.1.0.0/24", ("192.0.2.1",), "10.1.0.1"),
        NodeInfo("peer", "10.1.1.0/24", ("192.0.2.2", "192.0.2.3"), "10.1.1.1"),
        NodeInfo("new", "10.1.2.0/24", ("192.0.2.4",), None),
    )
    assert targets(nodes, "self", "10.1.0.1") == [
        Target("pod", "10.1.0.1", from_host=True),
        Target("node:peer", "192.0.2.2"),
        Target("pod:peer", "10.1.1.1"),
    ]
