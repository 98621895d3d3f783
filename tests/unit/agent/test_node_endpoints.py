"""What a node publishes: at once, together with what follows soon, again after an outage, and put right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from podwire.agent import identity_allocator, identity_objects, node_endpoints
from podwire.agent.identity_allocator import Allocator, Wanted
from podwire.agent.identity_api import IdentityApi
from podwire.agent.identity_objects import IdentityObject
from podwire.agent.identity_view import RemoteEndpoint
from podwire.agent.node_endpoints import Publisher
from podwire.kube.client import KubeClient
from podwire.kube.reflector import Connection
from podwire.policy.identity import candidate
from tests.unit.kube.api_server import wait_for
from tests.unit.kube.cluster_api import IDENTITIES, NODE_ENDPOINTS, ClusterApi, serve

WEB = {"k8s:app": "web"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ClusterApi, Connection]]:
    monkeypatch.setattr(node_endpoints, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(identity_allocator, "FIRST_PAUSE", 0.05)
    server = serve(tmp_path)
    api, kubeconfig = next(server)
    yield api, Connection(partial(KubeClient, kubeconfig))
    next(server, None)


@pytest.fixture
def publisher(cluster: tuple[ClusterApi, Connection]) -> Iterator[Publisher]:
    publisher = Publisher(cluster[1], "node1")
    publisher.start()
    yield publisher
    publisher.stop()


def endpoint(number: int, identity: int = 300) -> RemoteEndpoint:
    return RemoteEndpoint(
        "node1", "ns", f"p{number}", f"10.1.0.{number}", identity, frozenset({("http", 6, 80)})
    )


def published(api: ClusterApi) -> dict[str, int]:
    value = api.get(NODE_ENDPOINTS, "node1") or {"spec": {"endpoints": []}}
    return {item["address"]: item["identity"] for item in value["spec"]["endpoints"]}


def writes(api: ClusterApi) -> int:
    return sum(method == "PATCH" for method, _ in api.requests)


def test_an_object_belongs_to_its_node(cluster: tuple[ClusterApi, Connection], publisher: Publisher) -> None:
    api, _ = cluster
    publisher.set_status({"networkpolicies": "17"}, 3, ["a problem"])
    time.sleep(0.3)
    assert not api.names(NODE_ENDPOINTS)  # nobody knows the node yet
    publisher.set_endpoints("uid-1", [endpoint(2)])
    wait_for(lambda: published(api) == {"10.1.0.2": 300})
    value = api.get(NODE_ENDPOINTS, "node1") or {}
    owner = {"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "uid-1"}
    assert value["metadata"]["ownerReferences"] == [owner]
    assert value["status"] == {
        "observed": {"networkpolicies": "17"},
        "revision": 3,
        "problems": ["a problem"],
    }
    assert identity_objects.node_endpoints(value).endpoints == (endpoint(2),)


def test_what_comes_together_is_written_together(
    cluster: tuple[ClusterApi, Connection], publisher: Publisher
) -> None:
    api, _ = cluster
    publisher.set_endpoints("uid-1", [])
    wait_for(lambda: api.names(NODE_ENDPOINTS))
    before = writes(api)
    for number in range(2, 52):
        publisher.set_endpoints("uid-1", [endpoint(one) for one in range(2, number + 1)])
        time.sleep(0.004)
    wait_for(lambda: len(published(api)) == 50)
    assert writes(api) - before <= 6
    publisher.set_endpoints("uid-1", [endpoint(one) for one in range(51, 1, -1)])  # nothing new
    time.sleep(0.3)
    assert writes(api) - before <= 6


def test_the_last_state_is_written_after_an_outage(
    cluster: tuple[ClusterApi, Connection], publisher: Publisher
) -> None:
    api, _ = cluster
    api.fail()
    publisher.set_endpoints("uid-1", [endpoint(2)])
    wait_for(lambda: publisher.trouble)
    publisher.set_endpoints("uid-1", [endpoint(3)])
    api.fail(failing=False)
    wait_for(lambda: published(api) == {"10.1.0.3": 300})
    wait_for(lambda: not publisher.trouble)


def test_what_others_wrote_is_put_right_and_own_echoes_are_not(
    cluster: tuple[ClusterApi, Connection], publisher: Publisher
) -> None:
    api, _ = cluster

    def present() -> Any:
        value = api.get(NODE_ENDPOINTS, "node1")
        return value and identity_objects.node_endpoints(value)

    publisher.set_endpoints("uid-1", [endpoint(2)])
    wait_for(lambda: published(api) == {"10.1.0.2": 300})
    old = present()
    publisher.set_endpoints("uid-1", [endpoint(3)])
    wait_for(lambda: published(api) == {"10.1.0.3": 300})
    time.sleep(0.2)
    before = writes(api)
    publisher.seen(old)
    publisher.seen(present())
    time.sleep(0.3)
    assert writes(api) == before
    api.merge(NODE_ENDPOINTS, "node1", {"spec": {"endpoints": []}})
    publisher.seen(present())
    wait_for(lambda: published(api) == {"10.1.0.3": 300})
    api.remove(NODE_ENDPOINTS, "node1")
    publisher.seen(None)
    wait_for(lambda: published(api) == {"10.1.0.3": 300})


@pytest.fixture
def allocators(
    cluster: tuple[ClusterApi, Connection],
) -> Iterator[Callable[[], tuple[Allocator, list[IdentityObject]]]]:
    started: list[Allocator] = []

    def start() -> tuple[Allocator, list[IdentityObject]]:
        found: list[IdentityObject] = []
        allocator = Allocator(IdentityApi(cluster[1]), found.append)
        allocator.start()
        started.append(allocator)
        return allocator, found

    yield start
    for allocator in started:
        allocator.stop()


def test_agents_ask_the_api_for_numbers(cluster: tuple[ClusterApi, Connection], allocators: Any) -> None:
    api, _ = cluster
    many = {f"{n}": Wanted({"k8s:app": f"app{n}"}) for n in range(30)}
    agents = [allocators() for _ in range(3)]
    for allocator, _ in agents:
        allocator.set_wanted(many)
    for _, found in agents:
        wait_for(lambda found=found: len(found) == 30)
    numbers = [{item.labels["k8s:app"]: item.number for item in found} for _, found in agents]
    assert numbers[0] == numbers[1] == numbers[2]
    assert len(api.names(IDENTITIES)) == 30


def test_a_number_of_other_labels_is_not_taken(
    cluster: tuple[ClusterApi, Connection], allocators: Any
) -> None:
    api, _ = cluster
    api.put(IDENTITIES, identity_objects.identity_body(candidate(WEB), {"k8s:app": "squatter"}))
    allocator, found = allocators()
    allocator.set_wanted({"web": Wanted(WEB)})
    wait_for(lambda: found)
    assert (found[0].number, found[0].labels) == (candidate(WEB, 1), WEB)


def test_numbers_are_asked_for_again_after_an_outage_while_they_are_wanted(
    cluster: tuple[ClusterApi, Connection], allocators: Any
) -> None:
    api, _ = cluster
    api.fail()
    allocator, found = allocators()
    allocator.set_wanted({"web": Wanted(WEB), "db": Wanted({"k8s:app": "db"})})
    wait_for(lambda: allocator.trouble)
    allocator.set_wanted({"web": Wanted(WEB)})
    api.fail(failing=False)
    wait_for(lambda: found)
    time.sleep(0.2)
    assert [item.labels for item in found] == [WEB]
    assert not allocator.trouble


def test_idle_identities_are_deleted_unless_they_changed(
    cluster: tuple[ClusterApi, Connection], allocators: Any
) -> None:
    api, _ = cluster
    allocator, found = allocators()
    allocator.set_wanted({"web": Wanted(WEB), "db": Wanted({"k8s:app": "db"})})
    wait_for(lambda: len(found) == 2)
    web, db = sorted(found, key=lambda item: item.labels["k8s:app"], reverse=True)
    allocator.set_wanted({"web": Wanted(WEB, web.number)})  # touched
    wait_for(lambda: len(found) == 3)
    allocator.collect([web, db, IdentityObject(999, {}, "1")])
    wait_for(lambda: api.names(IDENTITIES) == {str(web.number)})
    allocator.collect([found[2]])
    wait_for(lambda: not api.names(IDENTITIES))
