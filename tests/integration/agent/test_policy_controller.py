"""The controller with maps of the kernel, and changes at random: at every moment between two writes each
endpoint is judged by a policy that was, or will be, in force."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from podwire.agent.identity_cidr import CidrNumbers
from podwire.agent.identity_view import LocalEndpoint, World
from podwire.agent.policies import PARSERS
from podwire.agent.policy_controller import EndpointProblem, Hooks, PolicyController, Report
from podwire.agent.policy_engine import NodeEngine
from podwire.agent.policy_maps import PolicyMaps
from podwire.agent.policy_source import take
from podwire.agent.policy_store import PLURALS, Known
from podwire.agent.policy_tables import CLOSED, OPEN, POLICIES, Contents, Entry, contents, decode
from podwire.bpf import BpfError, Map
from podwire.policy.model import Direction, MapKey
from podwire.policy.world import ServiceView

from .lab import Network, Node, eventually
from .policy_cluster import cnp

NAMESPACE = "k8s:io.kubernetes.pod.namespace"
APPS = ("web", "cli", "job")
IDENTITIES = {300 + n: {"k8s:app": app, NAMESPACE: "default"} for n, app in enumerate(APPS)}
OUTSIDE = IPv4Address("192.0.2.77")


def endpoint(number: int, identity: int) -> LocalEndpoint:
    labels = IDENTITIES.get(identity, {})
    return LocalEndpoint(
        f"c{number}-eth0", "default", f"pod{number}", f"10.1.0.{number}", identity, labels, frozenset()
    )


LOCAL = {item.key: item for item in (endpoint(1, 300), endpoint(2, 300), endpoint(3, 301), endpoint(4, 302))}
WORLD = World(identities=dict(IDENTITIES), local=dict(LOCAL), complete=True)


class Watched:
    """The map of maps, which looks on before and after every write, and fails when told."""

    def __init__(self, table: Map, bench: Bench) -> None:
        self._table = table
        self._bench = bench

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def raw_set_many(self, entries: Any) -> int:
        # One by one: that is what packets may see of a batch.
        pairs = list(entries)
        for key, value in pairs:
            self._bench.before_write()
            self._table.raw_set_many([(key, value)])
            self._bench.check()
        return len(pairs)

    def set_inner(self, key: Any, inner: Map) -> None:
        self._bench.before_write()
        self._table.set_inner(key, inner)
        self._bench.check()


class Bench:
    """A controller, and the kernel's side of it as far as it is not the maps themselves."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.world = WORLD
        self.numbers = CidrNumbers()
        self.shown: dict[IPv4Network, int] = {}
        """What the ipcache has."""
        self.wanted: dict[IPv4Network, int] = {}
        self.endpoints: dict[str, tuple[int, int]] = {}
        """Key -> identity and policy number, as the endpoints' map has them."""
        self.reports: list[Report] = []
        self.problems: list[EndpointProblem] = []
        self.remembered: list[Mapping[str, object]] = []
        self.judged: dict[str, Known] = {}
        self.writes_left: int | None = None
        self.services_known = True
        self.broken = False
        """Nothing can be applied."""
        self.checks = 0
        self.allowed: set[tuple[str, int, int]] = set()
        """(endpoint, peer, port): never refused for now. Peer 0: the address OUTSIDE."""
        self.refused: set[tuple[str, int, int]] = set()
        self.controller = self.make()

    def make(self, **more: Any) -> PolicyController:
        hooks = Hooks(
            self.number, self.show, lambda: self.services_known, self.apply, self.reports.append,
            self.judged.update, self.problems.extend, self._remember,
        )  # fmt: skip
        maps = PolicyMaps(lambda name: Watched(self._node.datapath.map(name), self))  # type: ignore[arg-type,return-value]
        self.controller = PolicyController(maps, NodeEngine(), lambda: self.world, hooks, **more)
        return self.controller

    def _remember(self, objects: list[Mapping[str, object]]) -> None:
        self.remembered = objects

    # -- hooks -------------------------------------------------------------------------------------

    def number(self, prefixes: Collection[IPv4Network]) -> dict[IPv4Network, int]:
        self.numbers.set_wanted(prefixes)
        return self.numbers.numbers()

    def show(self, prefixes: Collection[IPv4Network]) -> None:
        self.wanted = {prefix: self.number(prefixes)[prefix] for prefix in prefixes}

    def apply(self) -> None:
        """As the agent writes: new identities of addresses, then endpoints, then identities that go."""
        if self.broken:
            raise OSError("cannot write")
        for prefix, number in self.wanted.items():
            self.shown[prefix] = number
            self.check()
        for key, item in self.world.local.items():
            found = self.controller.assignment(key, item.identity)
            self.endpoints[key] = (item.identity, found.number if found else CLOSED)
            self.check()
        for prefix in self.shown.keys() - self.wanted.keys():
            del self.shown[prefix]
            self.check()

    def before_write(self) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise BpfError("write", "a map", 12)
            self.writes_left -= 1

    # -- what packets would see --------------------------------------------------------------------

    def maps(self) -> PolicyMaps:
        return PolicyMaps(self._node.datapath.map)

    def check(self) -> None:
        self.checks += 1
        for key, peer, port in self.allowed:
            assert self.passes(key, peer, port), f"{key} refuses {peer} on {port}"
        for key, peer, port in self.refused:
            assert not self.passes(key, peer, port), f"{key} lets {peer} in on {port}"

    def passes(self, key: str, peer: int, port: int) -> bool:
        """Would the datapath let a peer in on a port of TCP?"""
        _, number = self.endpoints.get(key, (0, CLOSED))
        if number == OPEN:
            return True
        return decides(self.maps().read(number), peer or self.identity_of(OUTSIDE), port)

    def identity_of(self, address: IPv4Address) -> int:
        found = [prefix for prefix in self.shown if address in prefix]
        return self.shown[max(found, key=lambda prefix: prefix.prefixlen)] if found else 2

    # -- input -------------------------------------------------------------------------------------

    def ready(self) -> None:
        for kind in PLURALS:
            self.controller.take_policies(kind, [], True)

    def apply_policy(self, value: dict[str, Any]) -> None:
        kind, metadata = value["kind"], value["metadata"]
        taken = take(value, kind=kind, parse=PARSERS[kind])
        self.controller.take_policies(kind, [(f"default/{metadata['name']}", taken)], True)

    def delete_policy(self, name: str) -> None:
        self.controller.take_policies("CiliumNetworkPolicy", [(f"default/{name}", None)], True)

    def set_world(self, world: World) -> None:
        self.world = world
        self.controller.take_world()

    def round(self) -> None:
        """Have the controller do everything that it has to do now."""
        jobs, self.controller._inbox = list(self.controller._inbox), type(self.controller._inbox)()
        self.controller._round(jobs)


def decides(raw: Contents, peer: int, port: int) -> bool:
    """The datapath's decision about ingress of TCP, by its own rules."""
    entries = {item.key: item.value for item in decode(raw) if isinstance(item, Entry)}
    found = []
    for identity in (peer, 0):
        keys = [
            MapKey(Direction.INGRESS, identity, 6, port & ~((1 << 16 - n) - 1), n) for n in range(16, -1, -1)
        ]
        values = [entries[key] for key in (*keys, MapKey(Direction.INGRESS, identity)) if key in entries]
        found += values[:1]
    return bool(found) and not any(value.deny for value in found)


@pytest.fixture
def bench(network: Network) -> Bench:
    node = network.add_node()
    node.load()
    bench = Bench(node)
    bench.ready()
    bench.round()
    return bench


def web(*ingress: dict[str, Any], name: str = "web", app: str = "web", **more: Any) -> dict[str, Any]:
    return cnp(name, {"app": app}, ingress=list(ingress), **more)


def cidr(*prefixes: str) -> dict[str, Any]:
    return {"fromCIDR": list(prefixes)}


def app(name: str) -> dict[str, Any]:
    return {"fromEndpoints": [{"matchLabels": {"app": name}}]}


def test_a_narrower_prefix_refuses_nobody_in_between(bench: Bench) -> None:
    bench.apply_policy(web(cidr("192.0.0.0/8")))
    bench.apply_policy(web(cidr("192.0.0.0/16"), name="job", app="job"))
    bench.round()
    pods = ("c1-eth0", "c2-eth0", "c4-eth0")
    bench.allowed = {(pod, 0, 80) for pod in pods}
    bench.refused = {(pod, 2, 80) for pod in pods}
    for length in (24, 28, 32, 20, 31):
        bench.apply_policy(web(cidr(f"{OUTSIDE}/{length}")))
        bench.round()
    assert {prefix.prefixlen for prefix in bench.shown} == {8, 16, 20, 24, 28, 31, 32}  # they linger
    assert bench.checks > 50


def test_prefixes_that_no_rule_names_lose_their_identities_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podwire.agent.policy_controller.LINGER", 0.05)
    bench.apply_policy(web(cidr("192.0.2.0/24")))
    bench.apply_policy(web(cidr("192.0.0.0/16"), name="job", app="job"))
    bench.round()
    bench.allowed = {("c4-eth0", 0, 80)}
    number = bench.identity_of(OUTSIDE)
    bench.delete_policy("web")
    bench.round()
    assert bench.identity_of(OUTSIDE) == number
    time.sleep(0.06)
    bench.round()
    assert bench.identity_of(OUTSIDE) == bench.shown[IPv4Network("192.0.0.0/16")]
    assert number not in bench.controller.cidrs.values()


def test_a_prefix_that_is_named_again_after_a_failure_is_known_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podwire.agent.policy_controller.LINGER", 0.05)
    bench.apply_policy(web(cidr("192.0.2.0/24")))
    bench.round()
    bench.delete_policy("web")
    bench.round()
    time.sleep(0.06)
    bench.broken = True
    with pytest.raises(OSError):
        bench.round()
    bench.broken = False
    bench.apply_policy(web(cidr("192.0.2.0/24")))
    bench.round()
    assert bench.identity_of(OUTSIDE) == bench.controller.cidrs[IPv4Network("192.0.2.0/24")]
    assert bench.passes("c1-eth0", 0, 80)


def test_endpoints_of_equal_policy_share_a_map(bench: Bench) -> None:
    bench.apply_policy(web(app("cli")))
    bench.round()
    assert bench.endpoints["c1-eth0"] == bench.endpoints["c2-eth0"]
    assert bench.endpoints["c3-eth0"][1] == OPEN
    assert bench.passes("c1-eth0", 301, 80)
    assert not bench.passes("c1-eth0", 302, 80)
    assert bench.controller.installed.counts.maps_written == 1
    assert bench.controller.revision == 2


def test_the_old_map_is_freed_when_nobody_can_need_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podwire.agent.policy_install.GRACE", 0.05)
    bench.apply_policy(web(app("cli")))
    bench.round()
    (old,) = {number for _, number in bench.endpoints.values()} - {OPEN}
    bench.apply_policy(web(app("job")))
    bench.round()
    assert bench.maps().read(old)
    time.sleep(0.06)
    bench.round()
    assert not bench.maps().read(old)
    bench.apply_policy(web(app("cli")))
    bench.round()
    assert old not in {number for _, number in bench.endpoints.values()}  # the last to be given again


def test_a_policy_that_comes_back_in_time_has_its_map_still(bench: Bench) -> None:
    bench.apply_policy(web(app("cli")))
    bench.round()
    before = dict(bench.endpoints)
    bench.apply_policy(web(app("job")))
    bench.round()
    bench.apply_policy(web(app("cli")))
    bench.round()
    assert bench.endpoints == before
    assert bench.controller.installed.counts.maps_written == 2


def test_an_agent_takes_over_what_is_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podwire.agent.policy_install.GRACE", 0.05)
    bench.apply_policy(web(app("cli")))
    bench.apply_policy(web(app("web"), name="job", app="job"))
    bench.round()
    before = dict(bench.endpoints)
    gone = before["c4-eth0"][1]
    bench.make()
    bench.world = replace(bench.world, complete=False)
    bench.ready()
    bench.apply_policy(web(app("cli")))
    bench.round()
    assert bench.endpoints == before  # not everything is known yet
    assert bench.controller.assignment("c1-eth0", 300) is None
    bench.allowed = {("c1-eth0", 301, 80)}
    bench.set_world(WORLD)
    bench.round()
    assert bench.endpoints["c1-eth0"] == before["c1-eth0"]
    assert bench.endpoints["c4-eth0"][1] == OPEN
    assert bench.controller.installed.counts.maps_written == 0
    time.sleep(0.06)
    bench.round()
    assert not bench.maps().read(gone)


def test_a_kind_that_is_not_served_is_no_reason_to_give_up_what_is_enforced(bench: Bench) -> None:
    bench.apply_policy(web(app("cli")))
    bench.round()
    before = dict(bench.endpoints)
    controller = bench.make()
    controller.take_policies("NetworkPolicy", [], True)
    for kind in ("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"):
        controller.take_absence(kind, f"no {kind}")
    bench.round()
    assert not controller.synced
    assert bench.endpoints == before
    for kind, (since, reason) in controller._state.absent.items():
        controller._state.absent[kind] = (since - 31, reason)
    bench.round()
    assert controller.synced
    assert {number for _, number in bench.endpoints.values()} == {OPEN}
    assert "no CiliumNetworkPolicy" in controller.problems()


def test_too_large_a_policy_closes_its_endpoints_and_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podwire.agent.policy_install.LARGEST", 5)
    bench.apply_policy(web({"toPorts": [{"ports": [{"port": "1", "endPort": 65534}]}]}))
    bench.round()
    assert bench.endpoints["c1-eth0"][1] == CLOSED
    assert not bench.passes("c1-eth0", 301, 80)
    assert bench.endpoints["c3-eth0"][1] == OPEN
    assert {problem.pod for problem in bench.problems} == {"pod1", "pod2"}
    assert "comes to more than" in bench.problems[0].message
    assert any("default/pod1 is closed" in text for text in bench.reports[-1].problems)
    bench.apply_policy(web(app("cli")))
    bench.round()
    assert bench.passes("c1-eth0", 301, 80)
    assert not bench.reports[-1].problems


def test_without_memory_an_endpoint_is_closed_until_there_is_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podwire.agent.policy_controller.RETRY", 0.01)
    bench.controller._state.retry = 0.01
    bench.writes_left = 0
    bench.apply_policy(web(app("cli")))
    bench.round()
    assert bench.endpoints["c1-eth0"][1] == CLOSED
    assert bench.reports[-1].problems
    bench.writes_left = None
    time.sleep(0.05)
    bench.round()
    assert bench.passes("c1-eth0", 301, 80)
    assert not bench.reports[-1].problems


def test_what_cannot_be_applied_is_not_observed(bench: Bench) -> None:
    bench.broken = True
    bench.apply_policy(web(app("cli")))
    bench.controller.take_version("CiliumNetworkPolicy", "7")
    with pytest.raises(OSError):
        bench.round()
    assert bench.reports[-1].observed.get("ciliumnetworkpolicies") != "7"
    assert bench.endpoints["c1-eth0"][1] == OPEN
    bench.broken = False
    bench.controller._state.dirty = True
    bench.round()
    assert bench.reports[-1].observed["ciliumnetworkpolicies"] == "7"
    assert bench.endpoints["c1-eth0"][1] not in (OPEN, CLOSED)
    # The same for identities of addresses, where nobody's number changes.
    bench.broken = True
    bench.apply_policy(web(cidr("192.0.2.0/24"), app="nobody", name="other"))
    with pytest.raises(OSError):
        bench.round()
    bench.broken = False
    bench.controller._state.dirty = True
    bench.round()
    assert bench.identity_of(OUTSIDE) == bench.controller.cidrs[IPv4Network("192.0.2.0/24")]


def test_a_version_that_comes_after_its_change_is_told(bench: Bench) -> None:
    bench.apply_policy(web(app("cli")))
    bench.round()
    bench.controller.take_version("CiliumNetworkPolicy", "7")
    bench.round()
    assert bench.reports[-1].observed["ciliumnetworkpolicies"] == "7"
    count = len(bench.reports)
    bench.controller.take_version("CiliumNetworkPolicy", "8")  # a bookmark
    bench.round()
    assert len(bench.reports) == count
    assert bench.controller.observed["ciliumnetworkpolicies"] == "8"


def test_an_invalid_change_changes_nothing(bench: Bench) -> None:
    bench.apply_policy(web(app("cli")))
    bench.round()
    before = dict(bench.endpoints)
    bench.apply_policy(web({"fromEntities": ["everyone"]}))
    bench.round()
    assert bench.endpoints == before
    assert len(bench.remembered) == 1
    bench.controller.take_version("CiliumNetworkPolicy", "7")
    bench.round()
    (problem,) = bench.reports[-1].problems
    assert "is invalid" in problem
    assert "an earlier version stays in force" in problem
    last_valid = [
        take(item, kind=str(item["kind"]), parse=PARSERS[str(item["kind"])]) for item in bench.remembered
    ]
    bench.make(last_valid=last_valid)
    bench.ready()
    bench.apply_policy(web({"fromEntities": ["everyone"]}))
    bench.round()
    assert bench.endpoints == before


def test_maps_that_somebody_else_changed_are_made_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podwire.agent.policy_install.GRACE", 0.05)
    bench.apply_policy(web(app("cli")))
    bench.apply_policy(web(app("web"), name="job", app="job"))
    bench.round()
    outer = bench.maps()._open(POLICIES)
    first, second = bench.endpoints["c1-eth0"][1], bench.endpoints["c4-eth0"][1]
    with Map.by_id(outer.get(first)) as inner:
        inner.delete(next(inner.keys()))
        outer.set_inner(99, inner)  # and a map that belongs to nobody
    with Map.by_id(outer.get(CLOSED)) as inner:
        outer.set_inner(second, inner)
    bench.controller.look_soon()
    bench.round()
    assert bench.controller.installed.counts.repaired == 2
    assert bench.passes("c1-eth0", 301, 80)
    assert bench.passes("c4-eth0", 300, 80)
    assert {first, second}.isdisjoint(number for _, number in bench.endpoints.values())
    time.sleep(0.06)
    bench.round()
    left = {number for number, raw in bench.maps().all().items() if raw}
    assert left == {number for _, number in bench.endpoints.values()} - {OPEN}
    bench.controller.look_soon()
    bench.round()
    assert bench.controller.installed.counts.repaired == 2


@pytest.mark.parametrize("seed", range(3))
def test_changes_at_random_end_where_a_fresh_controller_does(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)
    prefixes = ["192.0.2.0/24", "192.0.2.64/26", "192.0.0.0/8", "198.51.100.0/24", "192.0.2.77/32"]
    # Allowed and refused by everything that follows.
    bench.apply_policy(web(app("cli"), cidr("192.0.0.0/7"), name="always"))
    denied = [{"fromEndpoints": [{"matchLabels": {"app": "job"}}]}]
    bench.apply_policy(cnp("never", {"app": "web"}, ingressDeny=denied))
    bench.round()
    bench.allowed = {("c1-eth0", 301, 80), ("c1-eth0", 0, 80)}
    bench.refused = {("c1-eth0", 302, 80)}
    for _ in range(30):
        for _ in range(dice.randrange(1, 4)):
            name = f"p{dice.randrange(4)}"
            if dice.random() < 0.25:
                bench.delete_policy(name)
                continue
            entries = [
                cidr(*dice.sample(prefixes, 2)) if dice.random() < 0.6 else app(dice.choice(APPS))
                for _ in range(dice.randrange(1, 3))
            ]
            bench.apply_policy(web(*entries, name=name, app=dice.choice(APPS)))
        if dice.random() < 0.3:
            extra = {400 + dice.randrange(3): {"k8s:app": dice.choice(APPS), NAMESPACE: "default"}}
            bench.set_world(replace(WORLD, identities={**IDENTITIES, **extra}))
        bench.round()
    fresh = NodeEngine()
    policies = bench.controller.store.rules_source()
    fresh.set_policies(policies)
    fresh.set_world(bench.world, bench.controller.cidrs)
    maps = bench.maps()
    for key, value in fresh.compile(bench.world.local).items():
        number = bench.endpoints[key][1]
        if number != OPEN:
            assert maps.read(number) == contents(value), key
    assert bench.checks > 100


def to_service(name: str) -> dict[str, Any]:
    item = {"k8sService": {"serviceName": name, "namespace": "default"}}
    return cnp("cli", {"app": "cli"}, egress=[{"toServices": [item]}])


def egress(bench: Bench) -> set[int]:
    """Whom c3 may send to."""
    assigned = bench.controller.assigned("c3-eth0")
    assert assigned is not None
    return {key.identity for key in assigned.compiled.entries if key.direction is Direction.EGRESS}


def test_policies_that_name_services_wait_for_them(bench: Bench) -> None:
    bench.services_known = False
    bench.apply_policy(to_service("db"))
    bench.controller.take_version("CiliumNetworkPolicy", "7")
    bench.round()
    assert bench.endpoints["c3-eth0"][1] == OPEN
    assert bench.controller.observed.get("ciliumnetworkpolicies") != "7"
    bench.services_known = True
    bench.controller.take_services([ServiceView("default", "db", addresses=frozenset({OUTSIDE}))])
    bench.round()
    assert bench.controller.observed["ciliumnetworkpolicies"] == "7"
    assert egress(bench) == {bench.identity_of(OUTSIDE)}
    bench.controller.take_services([ServiceView("default", "db", selector={"app": "web"})])
    bench.round()
    assert egress(bench) == {300}


def test_services_are_not_waited_for_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("podwire.agent.policy_controller.PATIENCE", 0.05)
    bench.services_known = False
    bench.apply_policy(to_service("db"))
    bench.round()
    assert bench.endpoints["c3-eth0"][1] == OPEN
    time.sleep(0.06)
    bench.round()
    assert egress(bench) == set()
    assert bench.endpoints["c3-eth0"][1] not in (OPEN, CLOSED)


def test_the_thread_takes_what_comes(bench: Bench) -> None:
    bench.controller.start()
    try:
        bench.apply_policy(web(app("cli")))
        bench.controller.take_version("CiliumNetworkPolicy", "50")
        eventually(lambda: bench.reports[-1].observed.get("ciliumnetworkpolicies") == "50", 5)
        assert bench.passes("c1-eth0", 301, 80)
        for number in itertools.islice(itertools.count(), 20):
            bench.apply_policy(web(app(APPS[number % 3])))
        bench.controller.take_version("CiliumNetworkPolicy", "60")
        eventually(lambda: bench.controller.observed.get("ciliumnetworkpolicies") == "60", 5)
        assert bench.passes("c1-eth0", 301, 80)
    finally:
        bench.controller.stop()
