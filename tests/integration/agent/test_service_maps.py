"""Tables of services in the kernel, changed at random: they end as they should, and at no moment between two
writes does a frontend lack a backend that it counts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from podwire.agent.service_maps import Outcome, ServiceMaps
from podwire.agent.service_tables import (
    BACKENDS,
    MEMBERS,
    RANGES,
    SERVICES,
    frontend_key_of,
    frontend_of,
    member_of,
    range_of,
    raw,
)
from podwire.bpf import BpfError, Map
from podwire.service import parse
from podwire.service.model import Name, NodeContext
from podwire.service.registry import Limits, Registry

from .lab import Network, Node
from .objects import endpoint, port, service, slice_of

CONTEXT = NodeContext("node1", frozenset({"10.200.0.1"}), frozenset({"10.200.0.1"}), ("10.202.0.0/16",))


class Watched:
    """A map of the kernel that looks at all tables after every write."""

    def __init__(self, table: Map, tables: Tables) -> None:
        self._table = table
        self._tables = tables
        self.info = table.info

    def items(self) -> Iterator[tuple[Any, Any]]:
        return self._table.items()

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        return self._table.raw_items()

    def set(self, key: Any, value: Any) -> None:
        self._tables.before_write()
        self._table.set(key, value)
        self._tables.check()

    def set_many(self, entries: Iterable[tuple[Any, Any]]) -> int:
        # One by one: that is what packets may see of a batch.
        count = 0
        for key, value in entries:
            self.set(key, value)
            count += 1
        return count

    def delete(self, key: Any) -> bool:
        done = self._table.delete(key)
        self._tables.check()
        return done


class Tables:
    """The tables of a node, watched."""

    def __init__(self, node: Node) -> None:
        self._map = node.datapath.map
        self.writes_left: int | None = None
        """Writes that the kernel still takes; None for no limit."""
        self.checks = 0

    def open(self, name: str) -> Any:
        return Watched(self._map(name), self)

    def before_write(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise BpfError("write", "a map", 7)
            self.writes_left -= 1

    def check(self) -> None:
        """Every frontend has every backend that it counts."""
        self.checks += 1
        entries = {(key["list"], key["index"]) for key, _ in self._map(BACKENDS).items()}
        for key, value in self._map(SERVICES).items():
            for name, count in (
                (value["list"], value["count"]),
                (value["external_list"], value["external_count"]),
            ):
                missing = [index for index in range(count) if (name, index) not in entries]
                assert not missing, f"{frontend_key_of(key)} lacks {missing} of list {name}"

    def expect(self, registry: Registry) -> None:
        """The tables are what the registry wants, and nothing else."""
        found = {frontend_key_of(key): frontend_of(value) for key, value in self._map(SERVICES).items()}
        assert found == registry.frontends()
        lists: dict[int, dict[int, tuple[int, int]]] = {}
        for key, value in self._map(BACKENDS).items():
            lists.setdefault(key["list"], {})[key["index"]] = (value["address"], value["port"])
        assert {name: tuple(items[n] for n in sorted(items)) for name, items in lists.items()} == {
            name: raw(value) for name, value in registry.lists().items()
        }
        assert {member_of(key) for key, _ in self._map(MEMBERS).items()} == set(registry.affinity_members())
        assert {range_of(key) for key, _ in self._map(RANGES).items()} == set(registry.source_ranges())


@pytest.fixture
def tables(network: Network) -> Tables:
    node = network.add_node(kube_proxy_replacement=True)
    node.load()
    return Tables(node)


def change(registry: Registry, dice: random.Random) -> None:
    """Do something to one of a few services."""
    number = dice.randrange(6)
    name = f"s{number}"
    what = dice.random()
    if what < 0.1:
        registry.delete_service(Name("default", name))
    elif what < 0.45:
        spec: dict[str, Any] = {"type": dice.choice(["ClusterIP", "NodePort", "LoadBalancer"])}
        if dice.random() < 0.4:
            spec["sessionAffinity"] = "ClientIP"
        if spec["type"] == "LoadBalancer":
            spec["loadBalancerSourceRanges"] = dice.sample(["192.0.2.0/24", "198.51.100.0/24"], 1)
        if spec["type"] != "ClusterIP":
            spec["externalTrafficPolicy"] = dice.choice(["Local", "Cluster"])
        value = service(name, f"10.202.0.{number + 1}", port(80, 8080, nodePort=30000 + number), **spec)
        value["status"] = {"loadBalancer": {"ingress": [{"ip": f"203.0.113.{number + 1}"}]}}
        registry.set_service(parse.service(value))
    else:
        ends = [
            endpoint(f"10.201.1.{n}", dice.choice(["node1", "node2"]), ready=dice.random() < 0.8)
            for n in dice.sample(range(1, 12), dice.randrange(8))
        ]
        registry.set_slice(parse.endpoint_slice(slice_of(name, ends, {"port": 8080})))


def flushed(maps: ServiceMaps, registry: Registry) -> list[Outcome]:
    outcomes = []
    while registry.pending:
        outcomes.append(maps.apply(registry.flush(2)))
    return outcomes


@pytest.mark.parametrize("seed", range(4))
def test_changes_at_random(tables: Tables, seed: int) -> None:
    dice = random.Random(seed)
    maps = ServiceMaps(tables.open)
    registry = Registry(CONTEXT)
    for _ in range(40):
        for _ in range(dice.randrange(1, 4)):
            change(registry, dice)
        assert not any(outcome.failures for outcome in flushed(maps, registry))
        tables.expect(registry)
    assert tables.checks > 100


@pytest.mark.parametrize("seed", range(4))
def test_an_agent_takes_over_from_one_that_died_at_any_write(tables: Tables, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(8):
        maps = ServiceMaps(tables.open)
        left = maps.inherited()
        registry = Registry(CONTEXT, Limits(), first_list=left.first_list, known_services=left.known_services)
        for _ in range(8):
            change(registry, dice)
        registry.flush()
        outcome = maps.reconcile(registry)
        assert not outcome.failures
        tables.expect(registry)
        assert not maps.reconcile(registry).written  # the same again is nothing to do
        change(registry, dice)
        tables.writes_left = dice.randrange(6)
        flushed(maps, registry)  # what this leaves half done is the next agent's
        tables.writes_left = None


def test_a_map_that_takes_no_more_keeps_what_serves(tables: Tables) -> None:
    maps = ServiceMaps(tables.open)
    registry = Registry(CONTEXT)
    registry.set_service(parse.service(service("a", "10.202.0.1", port(80))))
    registry.set_slice(parse.endpoint_slice(slice_of("a", [endpoint("10.201.1.1")], {"port": 80})))
    flushed(maps, registry)
    registry.set_slice(parse.endpoint_slice(slice_of("a", [endpoint("10.201.1.2")], {"port": 80})))
    tables.writes_left = 0
    (outcome,) = flushed(maps, registry)
    tables.writes_left = None
    assert "map podwire_backends4 is full" in outcome.failures[0].reason
    assert "keeps its old backends" in outcome.failures[0].reason
    (value,) = [frontend_of(value) for _, value in tables.open(SERVICES).items()]
    assert value.count == 1
    assert not maps.reconcile(registry).failures
    tables.expect(registry)


def test_a_look_notices_what_somebody_else_changed(tables: Tables) -> None:
    maps = ServiceMaps(tables.open)
    registry = Registry(CONTEXT)
    registry.set_service(parse.service(service("a", "10.202.0.1", port(80))))
    ends = [endpoint("10.201.1.1"), endpoint("10.201.1.2")]
    registry.set_slice(parse.endpoint_slice(slice_of("a", ends, {"port": 80})))
    flushed(maps, registry)
    assert maps.looks_intact(registry)
    extra = {"address": 1, "port": 1, "protocol": 6}
    tables.open(SERVICES).set(extra, {"id": 9})
    assert not maps.looks_intact(registry)
    tables.open(SERVICES).delete(extra)
    assert maps.looks_intact(registry)
    tables.open(BACKENDS).set({"list": 999, "index": 0}, {"address": 1})
    assert not maps.looks_intact(registry)
    maps.reconcile(registry)
    assert maps.looks_intact(registry)
    tables.expect(registry)


def test_udp_backends_that_left_while_no_agent_ran_are_named(tables: Tables) -> None:
    udp = port(53, protocol="UDP")
    registry = Registry(CONTEXT)
    registry.set_service(parse.service(service("dns", "10.202.0.1", udp)))
    ends = [endpoint("10.201.1.1"), endpoint("10.201.1.2")]
    registry.set_slice(parse.endpoint_slice(slice_of("dns", ends, {"port": 53, "protocol": "UDP"})))
    registry.flush()
    maps = ServiceMaps(tables.open)
    maps.reconcile(registry)
    (number,) = {value.service for value in registry.frontends().values()}
    left = maps.inherited()
    again = Registry(CONTEXT, first_list=left.first_list, known_services=left.known_services)
    again.set_service(parse.service(service("dns", "10.202.0.1", udp)))
    again.set_slice(parse.endpoint_slice(slice_of("dns", ends[1:], {"port": 53, "protocol": "UDP"})))
    again.flush()
    assert maps.reconcile(again).released_udp == {(number, ("10.201.1.1", 53))}
