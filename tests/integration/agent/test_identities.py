"""Identities with real agents and an API: equal everywhere, through restarts, outages and new labels."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.agent.identity_ipcache import Ipcache4
from tests.unit.kube.cluster_api import IDENTITIES, NODE_ENDPOINTS, NODES, PODS

from .cluster import API_ADDRESS, Cluster, known_by, local, locals_of
from .lab import Network, Node, eventually, finish


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(network, tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Node, Node]:
    return cluster.add_node(), cluster.add_node()


def test_equal_labels_have_one_number_on_every_node(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    web = [cluster.add_pod(one, "web1", app="web"), cluster.add_pod(two, "web2", app="web")]
    other = cluster.add_pod(two, "other", app="other")
    numbers = [cluster.identity(one, web[0]), cluster.identity(two, web[1])]
    assert numbers[0] == numbers[1]
    assert cluster.identity(two, other) not in numbers
    assert cluster.labels(numbers[0])["k8s:app"] == "web"
    assert cluster.labels(numbers[0])["k8s:io.kubernetes.pod.namespace"] == "default"
    for node, pod in zip(nodes, web, strict=True):
        eventually(lambda node=node, pod=pod: local(node, pod).identity == numbers[0])
    there = Ipcache4(numbers[0], next_hop=two.address, cluster=True)
    eventually(lambda: known_by(one, web[1].address) == there)
    assert web[0].ping(web[1].address)


def test_what_leaves_is_forgotten(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    pods = [cluster.add_pod(two, name, app=name) for name in ("a", "b")]
    eventually(lambda: all(known_by(one, pod.address) for pod in pods))
    two.delete("a")
    eventually(lambda: known_by(one, pods[0].address) is None)
    assert known_by(one, pods[1].address)
    cluster.api.remove(NODES, two.name)
    eventually(lambda: known_by(one, pods[1].address) is None)


def test_labels_that_change_change_the_identity_and_nothing_else(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    one, two = nodes
    pod = cluster.add_pod(one, "web", app="web", tier="a")
    before = cluster.identity(one, pod)
    eventually(lambda: local(one, pod).identity == before)
    slot = local(one, pod).slot
    revision = one.datapath.map("podwire_slots").get(slot)["revision"]
    cluster.api.merge(PODS, "default/web", {"metadata": {"labels": {"tier": "b"}}})
    eventually(lambda: local(one, pod).identity not in (0, before))
    after = local(one, pod).identity
    assert cluster.labels(after)["k8s:tier"] == "b"
    eventually(lambda: (entry := known_by(two, pod.address)) and entry.identity == after)
    eventually(lambda: one.datapath.map("podwire_slots").get(slot)["revision"] > revision)
    assert local(one, pod).slot == slot
    assert cluster.labels(before)["k8s:tier"] == "a"  # others may still think of it so
    cluster.api.merge(PODS, "default/web", {"metadata": {"labels": {"tier": "a", "pod-template-hash": "x"}}})
    eventually(lambda: local(one, pod).identity == before)
    cluster.namespace("default", team="red")
    eventually(lambda: local(one, pod).identity not in (before, after))
    labels = cluster.labels(local(one, pod).identity)
    assert labels["k8s:io.cilium.k8s.namespace.labels.team"] == "red"


def test_identities_survive_agents_and_the_api(cluster: Cluster, nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    here, there = cluster.add_pod(one, "here", app="here"), cluster.add_pod(two, "there", app="there")
    number = cluster.identity(one, here)
    eventually(lambda: local(one, here).identity == number)
    entry = eventually(lambda: known_by(one, there.address))
    cluster.api.fail()
    one.kill(signal.SIGKILL)
    one.start()
    time.sleep(3)  # a whole look around, and more
    assert local(one, here).identity == number
    assert known_by(one, there.address) == entry
    assert not one.get("/v1/status")["identities"]["synced"]
    two.delete("there")
    cluster.api.fail(failing=False)
    eventually(lambda: known_by(one, there.address) is None, 40)
    eventually(lambda: one.get("/v1/status")["identities"]["synced"], 40)
    assert local(one, here).identity == number
    assert cluster.identity(one, here) == number


def test_what_somebody_else_did_to_the_objects_is_put_right(
    cluster: Cluster, nodes: tuple[Node, Node]
) -> None:
    one, _ = nodes
    pod = cluster.add_pod(one, "web", app="web")
    number = cluster.identity(one, pod)
    cluster.api.merge(NODE_ENDPOINTS, one.name, {"spec": {"endpoints": []}})
    eventually(lambda: cluster.identity(one, pod) == number)
    cluster.api.remove(NODE_ENDPOINTS, one.name)
    eventually(lambda: cluster.identity(one, pod) == number)
    cluster.api.remove(IDENTITIES, str(number))
    eventually(lambda: cluster.api.get(IDENTITIES, str(number)))
    assert cluster.labels(number)["k8s:app"] == "web"
    assert cluster.identity(one, pod) == number


def test_nodes_are_known_by_what_runs_there(cluster: Cluster) -> None:
    cluster.api_servers("10.200.0.2", API_ADDRESS)
    one, two = cluster.add_node(), cluster.add_node()
    eventually(lambda: known_by(one, two.address) == Ipcache4(7, cluster=True, node=True))
    assert known_by(one, one.address) == Ipcache4(1, cluster=True, node=True)
    eventually(lambda: known_by(two, one.address) == Ipcache4(6, cluster=True, node=True))
    cluster.api_servers(one.address)
    eventually(lambda: known_by(two, one.address) == Ipcache4(7, cluster=True, node=True))
    eventually(lambda: known_by(one, two.address) == Ipcache4(6, cluster=True, node=True))


def test_a_pod_that_nobody_knows_starts_closed(cluster: Cluster) -> None:
    node = cluster.add_node(policy_wait=0.5)
    friend = cluster.add_pod(node, "friend", app="friend")
    stranger = node.add("stranger")
    entry = local(node, stranger)
    assert entry.identity == 5
    assert entry.policy != 0  # closed, or already what holds for pods without labels
    assert not stranger.ping(friend.address)
    cluster.pod(node, "stranger", {"app": "late"})
    eventually(lambda: local(node, stranger).policy == 0 and local(node, stranger).identity > 255)
    assert stranger.ping(friend.address)


def test_nobody_waits_for_an_agent_that_is_being_stopped(cluster: Cluster) -> None:
    node = cluster.add_node(policy_wait=30)
    node.new_netns("stranger")
    call = node.cni_process("ADD", "stranger", node.cni_config())
    eventually(node.records)
    started = time.monotonic()
    assert node.kill(signal.SIGTERM) == 0
    code, error = finish(call)
    assert time.monotonic() - started < 8
    assert (code, error["code"]) == (1, 11)  # the runtime tries again
    assert not node.records()


def test_pods_that_wait_are_in_nobodys_way(cluster: Cluster) -> None:
    node = cluster.add_node(policy_wait=20, workers=2)
    for number in range(6):
        node.new_netns(f"stranger{number}")
    calls = [node.cni_process("ADD", f"stranger{number}", node.cni_config()) for number in range(6)]
    eventually(lambda: len(node.records()) == 6)
    started = time.monotonic()
    cluster.add_pod(node, "known", app="known")
    node.delete("known")
    assert time.monotonic() - started < 10
    for number in range(6):
        cluster.pod(node, f"stranger{number}", {"app": f"late{number}"})
    for call in calls:
        code, result = finish(call)
        assert code == 0, result
    assert time.monotonic() - started < 20
    assert {value.policy for value in locals_of(node)} == {0}
