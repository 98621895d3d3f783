"""What the agent writes into the datapath's tables of services, through its life and that of the objects."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from podwire.agent.service_tables import frontend_key_of, frontend_of, text
from podwire.service.model import ANY_ADDRESS, FrontendKey, Protocol

from .lab import Network, Node, eventually
from .objects import endpoint, port, service, slice_of


class Tables:
    """The tables as they are in the kernel: read one after the other, so a change may lie between."""

    def __init__(self, node: Node) -> None:
        self._map = node.datapath.map
        self.frontends = {
            frontend_key_of(key): frontend_of(value) for key, value in self._map("podwire_services4").items()
        }
        self.entries = {
            (key["list"], key["index"]): f"{text(value['address'])}:{value['port']}"
            for key, value in self._map("podwire_backends4").items()
        }

    def backends(self, address: str, number: int, protocol: Protocol = Protocol.TCP) -> list[str]:
        value = self.frontends[FrontendKey(address, number, protocol)]
        return sorted(self.entries.get((value.list, index), "gone") for index in range(value.count))

    def lists(self) -> set[int]:
        return {name for name, _ in self.entries}

    def used_lists(self) -> set[int]:
        return {n for value in self.frontends.values() for n in (value.list, value.external_list)} - {0}


def synced(node: Node) -> bool:
    return bool(node.get("/v1/status")["services"]["synced"])


@pytest.fixture
def started(network: Network) -> Callable[..., Node]:
    """``started(*objects, **settings)``: a node whose agent has these objects in force."""

    def start(*objects: dict[str, Any], **settings: Any) -> Node:
        node = network.add_node(kube_proxy_replacement=True, health=False, **settings)
        node.load()
        network.write_services(*objects)
        node.start()
        eventually(lambda: synced(node))
        return node

    return start


WEB = service("web", "10.202.0.10", port(80, 8080))
WEB_SLICE = slice_of("web", [endpoint("10.201.1.5"), endpoint("10.201.1.6")], {"port": 8080})


def test_a_change_of_endpoints_is_in_force_at_once_and_leaves_no_old_list(
    started: Callable[..., Node], network: Network
) -> None:
    node = started(WEB, WEB_SLICE)
    before = Tables(node)
    assert before.backends("10.202.0.10", 80) == ["10.201.1.5:8080", "10.201.1.6:8080"]
    changed = slice_of("web", [endpoint("10.201.1.6"), endpoint("10.201.1.7")], {"port": 8080})
    begun = time.monotonic()
    network.write_services(WEB, changed)
    eventually(
        lambda: Tables(node).backends("10.202.0.10", 80) == ["10.201.1.6:8080", "10.201.1.7:8080"],
        pause=0.001,
    )
    assert time.monotonic() - begun < 0.5
    after = Tables(node)
    eventually(lambda: Tables(node).lists() == after.used_lists())
    key = FrontendKey("10.202.0.10", 80, Protocol.TCP)
    assert after.frontends[key].service == before.frontends[key].service


def test_a_service_that_goes_takes_everything_along(started: Callable[..., Node], network: Network) -> None:
    nodeport = service(
        "web", "10.202.0.10", port(80, 8080, nodePort=30080), type="NodePort", sessionAffinity="ClientIP"
    )
    node = started(nodeport, WEB_SLICE)
    assert FrontendKey(ANY_ADDRESS, 30080, Protocol.TCP) in Tables(node).frontends
    members = node.datapath.map("podwire_affinity_backends4")
    assert len(members) == 2
    network.write_services(WEB_SLICE)
    eventually(lambda: not Tables(node).frontends and not Tables(node).entries and not len(members))


def test_a_restarted_agent_takes_over_and_removes_what_went_meanwhile(
    started: Callable[..., Node], network: Network
) -> None:
    other = service("other", "10.202.0.11", port(80))
    node = started(WEB, WEB_SLICE, other)
    before = Tables(node)
    node.kill(signal.SIGKILL)
    assert Tables(node).frontends == before.frontends
    network.write_services()  # an agent that knows nothing yet must not take anything away
    node.service_file.unlink()
    node.start()
    time.sleep(0.5)
    assert Tables(node).frontends == before.frontends
    assert not synced(node)
    network.write_services(WEB, WEB_SLICE)
    eventually(lambda: synced(node))
    after = Tables(node)
    assert set(after.frontends) == {FrontendKey("10.202.0.10", 80, Protocol.TCP)}
    assert after.backends("10.202.0.10", 80) == before.backends("10.202.0.10", 80)
    assert after.lists() == after.used_lists()
    key = FrontendKey("10.202.0.10", 80, Protocol.TCP)
    assert after.frontends[key].service == before.frontends[key].service


def test_the_agent_comes_first_and_the_datapath_follows(network: Network) -> None:
    """The order of a rollout: at no time does the datapath translate with empty tables."""
    node = network.add_node(kube_proxy_replacement=True, resync_interval=600.0)
    node.load(enabled=False)
    network.write_services(WEB, WEB_SLICE)
    node.start()
    eventually(lambda: synced(node))
    assert Tables(node).backends("10.202.0.10", 80) == ["10.201.1.5:8080", "10.201.1.6:8080"]
    assert any("loaded without services" in text for text in node.get("/v1/status")["problems"])
    eventually(lambda: node.get("/v1/health?probe=0")["ok"])
    checks = {check["name"]: check["ok"] for check in node.get("/v1/health?probe=1")["checks"]}
    assert not checks["services"]
    node.load()
    eventually(lambda: node.get("/v1/health?probe=1")["ok"])
    assert node.get("/v1/status")["problems"] == []
    assert node.get("/v1/status")["services"]["socket"] == "attached"


def test_maps_that_an_upgrade_put_in_place_are_filled(started: Callable[..., Node], network: Network) -> None:
    node = started(WEB, WEB_SLICE)
    node.map_entries = {"podwire_backends4": 1000}
    node.load()
    eventually(lambda: Tables(node).backends("10.202.0.10", 80) == ["10.201.1.5:8080", "10.201.1.6:8080"])
    assert node.datapath.map("podwire_backends4").info.max_entries == 1000


def test_maglev_tables_are_made_and_removed(started: Callable[..., Node], network: Network) -> None:
    ports = port(80, 8080, nodePort=30080)
    node = started(
        service("web", "10.202.0.10", ports, type="NodePort"), WEB_SLICE, service_algorithm="maglev"
    )
    tables = node.datapath.map("podwire_maglev")
    assert len(tables) == 1
    changed = slice_of("web", [endpoint("10.201.1.9")], {"port": 8080})
    network.write_services(service("web", "10.202.0.10", ports, type="NodePort"), changed)
    eventually(lambda: Tables(node).backends("10.202.0.10", 80) == ["10.201.1.9:8080"])
    eventually(lambda: {key for key, _ in tables.items()} == set(Tables(node).used_lists()))
    network.write_services()
    eventually(lambda: not len(tables))


def test_a_full_table_is_a_problem_of_the_service_that_does_not_fit(
    started: Callable[..., Node], network: Network
) -> None:
    many = slice_of("big", [endpoint(f"10.201.1.{n}") for n in range(10, 40)], {"port": 80})
    big = service("big", "10.202.0.20", port(80))
    node = started(WEB, WEB_SLICE, map_entries={"podwire_backends4": 16})
    network.write_services(WEB, WEB_SLICE, big, many)
    eventually(lambda: node.get("/v1/status")["services"]["problems"])
    assert Tables(node).backends("10.202.0.10", 80) == ["10.201.1.5:8080", "10.201.1.6:8080"]
    small = slice_of("web", [endpoint("10.201.1.9")], {"port": 8080})
    network.write_services(WEB, small, big, many)
    eventually(lambda: Tables(node).backends("10.202.0.10", 80) == ["10.201.1.9:8080"])
    network.write_services(WEB, small)
    eventually(lambda: not node.get("/v1/status")["services"]["problems"])
    assert len(Tables(node).frontends) == 1


def test_entries_that_somebody_else_removed_come_back_with_the_next_comparison(
    started: Callable[..., Node],
) -> None:
    node = started(WEB, WEB_SLICE)
    node.datapath.map("podwire_services4").clear()
    node.kill(signal.SIGTERM)
    node.start()
    eventually(lambda: synced(node))
    assert Tables(node).backends("10.202.0.10", 80) == ["10.201.1.5:8080", "10.201.1.6:8080"]


def test_two_thousand_services_are_in_force_within_seconds(started: Callable[..., Node]) -> None:
    objects = []
    for number in range(2000):
        name, address = f"s{number}", f"10.203.{number // 250}.{number % 250 + 1}"
        objects.append(service(name, address, port(80, 8080)))
        ends = [endpoint(f"10.201.{n}.{number % 250 + 1}") for n in range(10)]
        objects.append(slice_of(name, ends, {"port": 8080}))
    node = started(*objects, service_cidr="10.203.0.0/16")
    tables = Tables(node)
    assert len(tables.frontends) == 2000
    assert len(tables.entries) == 20000
    print(node.get("/v1/status")["services"])
