"""Policies with real agents, an API and traffic: what is said there holds here, and nothing else passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .lab import Network, eventually
from .policy_cluster import PolicyCluster, cnp, from_app, policy_cluster, reaches


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[PolicyCluster]:
    with policy_cluster(network, tmp_path) as cluster:
        yield cluster


@pytest.mark.parametrize("mode", ["ebpf", "legacy"])
def test_a_policy_holds_on_one_node_and_across_nodes(cluster: PolicyCluster, mode: str) -> None:
    first, second = cluster.enforcing(mode), cluster.enforcing(mode)
    web = cluster.add_pod(first, "web", app="web")
    near = cluster.add_pod(first, "near", app="cli")
    far = cluster.add_pod(second, "far", app="cli")
    other = cluster.add_pod(first, "other", app="other")
    stranger = cluster.add_pod(second, "stranger", app="other")
    cluster.serve(web, 80)
    cluster.serve(web, 81)
    for client in (near, far, other, stranger):
        assert reaches(client, web.address, 80, 3), client.name
    cluster.apply(cnp("web", {"app": "web"}, ingress=[from_app("cli", 80)]))
    assert reaches(near, web.address, 80)
    assert reaches(far, web.address, 80)
    assert reaches(first, web.address, 80)  # the node itself, always
    assert not reaches(near, web.address, 81)
    assert not reaches(far, web.address, 81)
    assert not reaches(other, web.address, 80)
    assert not reaches(stranger, web.address, 80)
    assert not reaches(second, web.address, 80)
    cluster.remove("CiliumNetworkPolicy", "web")
    for client in (near, far, other, stranger):
        assert reaches(client, web.address, 80), client.name


def test_drops_are_explained(cluster: PolicyCluster) -> None:
    node = cluster.enforcing()
    web, cli = cluster.add_pod(node, "web", app="web"), cluster.add_pod(node, "cli", app="cli")
    cluster.serve(web, 80)
    rule = {"ingress": [from_app("cli")], "ingressDeny": [from_app("cli", 80)]}
    cluster.apply(cnp("web", {"app": "web"}, **rule))
    last = node.get("/v1/drops")["last"]
    assert not reaches(cli, web.address, 80)
    (event, *_) = eventually(lambda: node.get(f"/v1/drops?since={last}&wait=5")["events"])
    assert event["reason"] == 181
    assert event["rule"] == "CiliumNetworkPolicy/default/web spec.ingressDeny[0]"
    assert "k8s:app=cli" in event["source_labels"]
    assert "k8s:app=web" in event["destination_labels"]
    assert (event["destination"], event["destination_port"]) == (web.address, 80)
    (verdict, *_) = eventually(lambda: node.get("/v1/verdicts")["events"])
    assert (verdict["verdict"], verdict["match"], verdict["direction"]) == ("denied", "L3-L4", "ingress")
    assert verdict["rule"] == event["rule"]
