"""Services with the real agent, and an HTTP server that lists and watches as the Kubernetes API does."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podwire.net import netns
from podwire.service.model import FrontendKey, Protocol
from tests.unit.kube.api_server import NODES, Api, serve

from .lab import Network, Node, eventually
from .objects import endpoint, port, service, slice_of
from .test_service_tables import Tables, synced

SERVICES = "/api/v1/services"
DISCOVERY = "/apis/discovery.k8s.io"
SLICES = f"{DISCOVERY}/v1beta1/endpointslices"


def versioned(value: dict[str, Any], version: int) -> dict[str, Any]:
    return {**value, "metadata": {**value["metadata"], "resourceVersion": str(version)}}


WEB = versioned(service("web", "10.202.0.10", port(80, 8080)), 5)
WEB_SLICE = versioned(slice_of("web", [endpoint("10.201.1.5")], {"port": 8080}), 6)


@pytest.fixture
def served(network: Network, tmp_path: Path) -> Iterator[tuple[Api, Node]]:
    """An API in the node's namespace and a node whose agent is not started yet."""
    node = network.add_node(
        kube_proxy_replacement=True,
        health=False,
        node_source="kubernetes",
        kubeconfig=str(tmp_path / "kubeconfig"),
    )
    fd = netns.open_netns(f"/run/netns/{node.netns}")
    with contextlib.closing(serve(tmp_path)) as server, netns.closing(fd):
        with netns.entered(fd):
            api, _ = next(server)
        api.page = 2
        api.objects = {NODES: [{"metadata": {"name": "node1"}}], SERVICES: [WEB], SLICES: [WEB_SLICE]}
        api.documents[DISCOVERY] = {"versions": [{"version": "v1beta1"}]}
        node.load()
        yield api, node
        next(server, None)


def start(node: Node) -> None:
    """Start the agent; it never gets ready, because its node has no podCIDR."""
    node.start(wait=False)
    eventually(lambda: node.reachable() and synced(node), 20)


def test_objects_of_the_api_are_in_force_and_stay_while_it_is_away(served: tuple[Api, Node]) -> None:
    api, node = served
    start(node)
    assert Tables(node).backends("10.202.0.10", 80) == ["10.201.1.5:8080"]
    api.failing = True
    eventually(lambda: not node.get("/v1/status")["services"]["source"]["connected"])
    node.kill(signal.SIGKILL)
    node.start(wait=False)
    eventually(node.reachable)
    time.sleep(1)
    assert Tables(node).backends("10.202.0.10", 80) == ["10.201.1.5:8080"]
    assert not synced(node)
    changed = versioned(slice_of("web", [endpoint("10.201.1.6")], {"port": 8080}), 9)
    api.objects[SLICES] = [changed]
    api.failing = False
    eventually(lambda: synced(node), 30)
    assert Tables(node).backends("10.202.0.10", 80) == ["10.201.1.6:8080"]


def test_an_event_of_a_watch_is_in_force_at_once(served: tuple[Api, Node]) -> None:
    api, node = served
    api.watch_seconds = 30
    start(node)
    changed = versioned(slice_of("web", [endpoint("10.201.1.7")], {"port": 8080}), 20)
    eventually(lambda: SLICES in api.events)
    api.events[SLICES].append({"type": "MODIFIED", "object": changed})
    eventually(lambda: Tables(node).backends("10.202.0.10", 80) == ["10.201.1.7:8080"], 1)
    api.events[SERVICES].append({"type": "DELETED", "object": versioned(WEB, 21)})
    eventually(lambda: FrontendKey("10.202.0.10", 80, Protocol.TCP) not in Tables(node).frontends, 1)


def test_what_is_wrong_with_a_service_is_an_event_of_it(served: tuple[Api, Node]) -> None:
    api, node = served
    wrong = service("wrong", "10.202.0.11", port(80), port(0, name="zero"))
    api.objects[SERVICES] = [WEB, versioned(wrong, 7)]
    start(node)
    eventually(lambda: api.writes)
    method, path, event, _ = api.writes[0]
    assert (method, path) == ("POST", "/api/v1/namespaces/default/events")
    assert event["involvedObject"]["name"] == "wrong"
    assert event["involvedObject"]["uid"] == "uid-wrong"
    assert (event["reason"], event["type"]) == ("InvalidPort", "Warning")
    assert Tables(node).frontends.keys() >= {FrontendKey("10.202.0.10", 80, Protocol.TCP)}
    time.sleep(0.5)
    assert [item["reason"] for _, _, item, _ in api.writes].count("InvalidPort") == 1
