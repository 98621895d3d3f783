"""The last known nodes survive odd news."""

from __future__ import annotations

from pathlib import Path

from podwire.agent.cluster import Cluster
from podwire.agent.config import AgentConfig
from podwire.agent.model import NodeInfo
from podwire.agent.state import StateStore

SELF = NodeInfo("self", "10.1.0.0/24", ("192.0.2.1",))
PEER = NodeInfo("peer", "10.1.1.0/24", ("192.0.2.2",))


def cluster(directory: Path) -> Cluster:
    return Cluster(AgentConfig(node_name="self"), StateStore(directory), "192.0.2.1")


def test_nodes_are_remembered_across_a_restart(tmp_path: Path) -> None:
    assert cluster(tmp_path).set_nodes((PEER, SELF))
    again = cluster(tmp_path)
    assert again.nodes == (PEER, SELF)
    assert again.own == SELF
    assert not again.set_nodes((PEER, SELF))


def test_a_list_without_this_node_does_not_cut_its_pods(tmp_path: Path) -> None:
    known = cluster(tmp_path)
    known.set_nodes((PEER, SELF))
    assert not known.set_nodes(())
    assert known.nodes == (PEER, SELF)
    assert "lacks self" in known.problems()[0]
    assert known.set_nodes((SELF,))
    assert known.nodes == (SELF,)
    assert known.problems() == []


def test_a_node_that_was_never_known_is_reported(tmp_path: Path) -> None:
    known = cluster(tmp_path)
    assert known.set_nodes((PEER,))
    assert known.own is None
    assert "lacks self" in known.problems()[0]
