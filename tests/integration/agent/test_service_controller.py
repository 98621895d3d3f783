"""The thread that keeps the tables, over the kernel's own: what it waits for, and what it puts right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from podwire.agent import service_controller
from podwire.agent.service_controller import Hooks, ServiceController
from podwire.agent.service_flows import Stale
from podwire.agent.service_maps import ServiceMaps
from podwire.service import parse
from podwire.service.model import Backend, HealthCheck, Problem
from podwire.service.registry import Limits

from .lab import Network, Node, eventually
from .objects import endpoint, port, service, slice_of
from .test_service_maps import CONTEXT


class Told:
    """What the controller told the others."""

    def __init__(self) -> None:
        self.stale: list[Stale] = []
        self.checks: list[dict[int, HealthCheck]] = []
        self.problems: list[Problem] = []

    def hooks(self) -> Hooks:
        return Hooks(self.stale.append, self.checks.append, self.problems.extend)


@pytest.fixture
def node(network: Network) -> Node:
    node = network.add_node(kube_proxy_replacement=True)
    node.load()
    return node


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def controller(node: Node, told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceController]:
    monkeypatch.setattr(service_controller, "COMPARE", 0.2)
    controller = ServiceController(ServiceMaps(node.datapath.map), CONTEXT, Limits(), told.hooks())
    controller.start()
    yield controller
    controller.stop()


def give(controller: ServiceController, *objects: dict[str, Any], complete: bool = True) -> None:
    """Deliver objects as a source does."""
    keyed = [(f"default/{value['metadata']['name']}", value) for value in objects]
    services = [(key, parse.service(value)) for key, value in keyed if value["kind"] == "Service"]
    slices = [(key, parse.endpoint_slice(value)) for key, value in keyed if value["kind"] != "Service"]
    controller.take_services(services, complete)
    controller.take_slices(slices, complete)


DNS = service("dns", "10.202.0.10", port(53, protocol="UDP"))
DNS_SLICE = slice_of("dns", [endpoint("10.201.1.5"), endpoint("10.201.1.6")], {"port": 53, "protocol": "UDP"})


def test_nothing_is_written_before_everything_is_known(node: Node, controller: ServiceController) -> None:
    give(controller, DNS, DNS_SLICE, complete=False)
    time.sleep(0.3)
    assert not len(node.datapath.map("podwire_services4"))
    assert not controller.synced
    controller.take_services([], True)
    time.sleep(0.3)
    assert not controller.synced
    controller.take_slices([], True)
    eventually(lambda: controller.synced)
    assert len(node.datapath.map("podwire_services4")) == 1


def test_a_look_from_time_to_time_puts_right_what_somebody_changed(
    node: Node, controller: ServiceController
) -> None:
    give(controller, DNS, DNS_SLICE)
    eventually(lambda: controller.synced)
    time.sleep(1)
    assert controller.counts.comparisons == 1  # looks alone, while all is well
    services, backends = node.datapath.map("podwire_services4"), node.datapath.map("podwire_backends4")
    services.clear()
    eventually(lambda: len(services) == 1)
    backends.clear()
    eventually(lambda: len(backends) == 2)


def test_backends_of_udp_that_leave_are_told(controller: ServiceController, told: Told) -> None:
    give(controller, DNS, DNS_SLICE)
    eventually(lambda: controller.synced)
    give(controller, slice_of("dns", [endpoint("10.201.1.6")], {"port": 53, "protocol": "UDP"}))
    eventually(lambda: told.stale)
    assert {backend for _, backend in told.stale[-1].backends} == {Backend("10.201.1.5", 53)}


def test_health_checks_and_problems_are_told_when_they_change(
    controller: ServiceController, told: Told
) -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    local = slice_of("web", [endpoint("10.201.1.5", "node1")], {"port": 80})
    give(controller, service("web", "10.202.0.11", port(80), **spec), local)
    eventually(lambda: told.checks)
    assert told.checks[-1][32000].local_endpoints == 1
    give(controller, service("web", "10.202.0.11", port(80), port(0, name="zero")))
    eventually(lambda: told.checks[-1] == {})
    assert [problem.reason for problem in told.problems] == ["InvalidPort"]
    assert [problem.reason for problem in controller.problems()] == ["InvalidPort"]
