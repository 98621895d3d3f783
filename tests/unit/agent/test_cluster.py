"""The last known nodes survive odd news."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from podwire.agent.cluster import Cluster
from podwire.agent.config import AgentConfig
from podwire.agent.model import NodeInfo
from podwire.agent.state import StateStore
from podwire.datapath import ServiceSettings

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


def test_services_depend_on_this_node_and_its_peers(tmp_path: Path) -> None:
    known = cluster(tmp_path)
    labelled = NodeInfo("self", "10.1.0.0/24", ("192.0.2.1",), zone="z1", hostname="host1")
    known.set_nodes((PEER, labelled))
    context = known.service_context(ServiceSettings(node_port_min=31000, node_port_max=31999))
    assert (context.node_name, context.zone, context.hostname) == ("self", "z1", "host1")
    assert context.node_addresses >= {"192.0.2.1", "192.0.2.2"}
    assert (context.node_port_min, context.node_port_max) == (31000, 31999)
    assert context.service_cidrs == ("10.152.183.0/24",)
    assert not context.maglev


def test_external_ranges_are_the_stacks_only_while_it_translates(tmp_path: Path) -> None:
    external = ("198.51.100.0/24",)
    config = AgentConfig(node_name="self", external_service_cidrs=external)
    assert Cluster(config, StateStore(tmp_path), "192.0.2.1").state_of(()).service_cidrs == (
        "10.152.183.0/24",
        *external,
    )
    config = replace(config, kube_proxy_replacement=True)
    assert Cluster(config, StateStore(tmp_path), "192.0.2.1").state_of(()).service_cidrs == (
        "10.152.183.0/24",
    )
