"""Laws of the registry, for any sequence of objects: the tables that the changes make are those that a slow
and obvious model makes of the final objects, and they are whole at every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.service import parse
from podwire.service.changes import Changes
from podwire.service.model import (
    ANY_ADDRESS,
    Backend,
    Flags,
    FrontendKey,
    HostPort,
    Name,
    NodeContext,
    Protocol,
    Service,
    Slice,
    State,
)
from podwire.service.registry import Limits, Registry

from .objects import CONTEXT, HERE, THERE, endpoint, service_object, slice_object

NAMES = ("a", "b", "c")
CONTEXTS = (
    CONTEXT,
    replace(CONTEXT, node_addresses=CONTEXT.node_addresses | {"203.0.113.1"}),
    replace(CONTEXT, zone="west"),
    replace(CONTEXT, node_name=THERE, hostname=THERE, maglev=True),
)

# -- tables as the datapath has them ---------------------------------------------------------------


@dataclass
class Tables:
    """Applies changes in the order of their fields, and insists that they make sense."""

    lists: dict[int, tuple[Backend, ...]] = field(default_factory=dict)
    members: set[tuple[int, Backend]] = field(default_factory=set)
    ranges: set[tuple[int, str]] = field(default_factory=set)
    frontends: dict[FrontendKey, Any] = field(default_factory=dict)
    health_checks: dict[int, Any] = field(default_factory=dict)
    problems: dict[Any, Any] = field(default_factory=dict)
    released: set[tuple[int, Backend]] = field(default_factory=set)

    def apply(self, changes: Changes) -> None:
        assert not self.lists.keys() & changes.lists.keys(), "a list never changes"
        assert not self.members & changes.affinity_members
        assert not self.ranges & changes.source_ranges
        self.lists.update({number: content.backends for number, content in changes.lists.items()})
        self.members |= changes.affinity_members
        self.ranges |= changes.source_ranges
        for key, value in changes.frontends.items():
            assert self.frontends.get(key) != value, "no needless writes"
            self.frontends[key] = value
            self.check(value)
        for key in changes.removed_frontends:
            del self.frontends[key]
        assert self.ranges >= changes.removed_source_ranges
        self.ranges -= changes.removed_source_ranges
        assert self.members >= changes.removed_affinity_members
        self.members -= changes.removed_affinity_members
        for number, length in changes.removed_lists.items():
            assert len(self.lists.pop(number)) == length
        for number in changes.removed_health_checks:
            del self.health_checks[number]
        self.health_checks.update(changes.health_checks)
        self.problems.update(changes.problems)
        self.released |= changes.released_udp
        for value in self.frontends.values():
            self.check(value)

    def check(self, value: Any) -> None:
        for number, count in ((value.list, value.count), (value.external_list, value.external_count)):
            assert len(self.lists[number] if number else ()) == count


def feed(value: Registry, tables: Tables, most: int | None = None) -> None:
    while changes := value.flush(most):
        tables.apply(changes)


def assert_equal(value: Registry, tables: Tables) -> None:
    assert tables.frontends == dict(value.frontends())
    assert tables.lists == {number: content.backends for number, content in value.lists().items()}
    assert tables.members == set(value.affinity_members())
    assert tables.ranges == set(value.source_ranges())
    assert tables.health_checks == dict(value.health_checks())
    problems = [problem for group in tables.problems.values() for problem in group]
    assert sorted(problems, key=repr) == sorted(value.problems(), key=repr)


# -- what the objects mean, slowly -----------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """A frontend with its backends, and without the numbers that depend on history."""

    owner: Name
    inside: tuple[Backend, ...]
    outside: tuple[Backend, ...]
    affinity: int
    flags: Flags


def meaning(value: Registry) -> dict[FrontendKey, Meaning]:
    def content(number: int) -> tuple[Backend, ...]:
        return value.lists()[number].backends if number else ()

    return {
        key: Meaning(
            value.service_of(frontend.service)[0].name,
            content(frontend.list),
            content(frontend.external_list),
            frontend.affinity_seconds,
            frontend.flags,
        )
        for key, frontend in value.frontends().items()
    }


def model(
    services: Iterable[Service],
    slices: Iterable[Slice],
    host_ports: dict[Name, tuple[HostPort, ...]],
    context: NodeContext,
) -> tuple[dict[FrontendKey, Meaning], dict[int, tuple[Name, int]]]:
    """Frontends and health checks, by going through all objects from the oldest to the youngest."""
    slices = list(slices)
    frontends: dict[FrontendKey, Meaning] = {}
    checks: dict[int, tuple[Name, int]] = {}
    taken: set[FrontendKey] = set()
    # Pods sort before services of the same age; these pods have no age at all.
    for pod, ports in sorted(host_ports.items()):
        for port in ports:
            key = FrontendKey(port.host_address or ANY_ADDRESS, port.port, port.protocol)
            if key not in taken:
                taken.add(key)
                frontends[key] = Meaning(pod, (port.backend,), (port.backend,), 0, Flags.HOST_PORT)
    for service in sorted(services, key=lambda item: (item.created, item.name)):
        if service.unhandled:
            continue
        mine = [item for item in slices if (item.name.namespace, item.service) == service.name]
        own: set[FrontendKey] = set()
        for port in service.ports:
            inside, here = reachable(service, port.name, mine, context)
            marks = Flags.EXTERNAL_LOCAL * service.external_local | Flags.MAGLEV * context.maglev
            rules = Flags.SOURCE_RANGES * (service.source_ranges is not None)
            wanted = [
                (
                    service.cluster_address,
                    port.port,
                    Flags.CLUSTER_IP | Flags.INTERNAL_LOCAL * service.internal_local,
                )
            ]
            for address in service.external_addresses:
                wanted.append((address, port.port, Flags.EXTERNAL_IP | marks))
            for address in service.load_balancer_addresses:
                wanted.append((address, port.port, Flags.LOAD_BALANCER | marks | rules))
            if port.node_port:
                wanted.append((ANY_ADDRESS, port.node_port, Flags.NODE_PORT | marks))
            found: dict[FrontendKey, Flags] = {}
            for address, number, flags in wanted:
                key = FrontendKey(address, number, port.name.protocol)
                if address not in context.node_addresses and key not in own:
                    found[key] = found.get(key, Flags(0)) | flags
            own |= set(found)
            for key, flags in found.items():
                if key in taken:
                    continue
                internal = here if service.internal_local and flags & Flags.CLUSTER_IP else inside
                external = here if service.external_local else inside
                if flags == flags & (Flags.CLUSTER_IP | Flags.INTERNAL_LOCAL):
                    external = ()
                frontends[key] = Meaning(service.name, internal, external, service.affinity_seconds, flags)
        check = FrontendKey(ANY_ADDRESS, service.health_check_port, Protocol.TCP)
        if service.health_check_port and check not in taken and check not in own:
            ready = {
                item.address
                for one in mine
                for item in one.endpoints
                if item.node in (context.node_name, context.hostname)
                and (item.state & State.READY or service.publish_not_ready)
            }
            checks[service.health_check_port] = (service.name, len(ready))
        taken |= own
        if service.health_check_port:
            taken.add(check)
    return frontends, checks


def reachable(
    service: Service, port: Any, slices: list[Slice], context: NodeContext
) -> tuple[tuple[Backend, ...], tuple[Backend, ...]]:
    """Backends for clients anywhere, and for those that must stay on the node."""
    ready: dict[Backend, set[tuple[str, tuple[str, ...]]]] = {}
    draining: dict[Backend, set[tuple[str, tuple[str, ...]]]] = {}
    for item in slices:
        for slice_port in item.ports:
            if slice_port.name == port:
                for each in item.endpoints:
                    backend = Backend(each.address, slice_port.port)
                    if each.state & State.READY or service.publish_not_ready:
                        ready.setdefault(backend, set()).add((each.node, each.zone_hints))
                    elif each.state & State.SERVING and each.state & State.TERMINATING:
                        draining.setdefault(backend, set()).add((each.node, each.zone_hints))

    def here(group: dict[Backend, Any]) -> list[Backend]:
        nodes = (context.node_name, context.hostname)
        return [backend for backend, facts in group.items() if max(facts)[0] in nodes]

    everywhere = list(ready)
    hints = {backend: max(facts)[1] for backend, facts in ready.items()}
    near = [backend for backend in ready if context.zone in hints[backend]]
    if near and all(hints.values()):
        everywhere = near
    only_draining = {backend: facts for backend, facts in draining.items() if backend not in ready}
    return (
        tuple(sorted(everywhere or only_draining)),
        tuple(sorted(here(ready) or here(only_draining))),
    )


# -- any sequence of objects -----------------------------------------------------------------------

ports = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["", "x"]),
            "port": st.sampled_from([0, 80, 81]),
            "protocol": st.sampled_from(["TCP", "UDP"]),
            "nodePort": st.sampled_from([0, 30080, 30081, 32000]),
        }
    ),
    max_size=3,
)
service_objects = st.builds(
    lambda name, created, status, spec: {
        **service_object(name, **spec),
        "metadata": {
            "namespace": "default",
            "name": name,
            "creationTimestamp": f"202{created}-01-01T00:00:00Z",
        },
        "status": status,
    },
    st.sampled_from(NAMES),
    st.integers(0, 3),
    st.sampled_from([{}, {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}]),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]),
            "clusterIP": st.sampled_from(["10.152.183.1", "10.152.183.2", "None"]),
            "ports": ports,
            "externalIPs": st.sampled_from([[], ["203.0.113.1"], ["192.0.2.1", "203.0.113.2"]]),
            "sessionAffinity": st.sampled_from(["None", "ClientIP"]),
            "externalTrafficPolicy": st.sampled_from(["Cluster", "Local"]),
            "internalTrafficPolicy": st.sampled_from(["Cluster", "Local"]),
            "healthCheckNodePort": st.sampled_from([0, 32000]),
            "loadBalancerSourceRanges": st.sampled_from([[], ["192.0.2.0/24"], ["2001:db8::/32"]]),
            "publishNotReadyAddresses": st.booleans(),
        }
    ),
)
endpoints = st.builds(
    lambda number, node, zone, conditions: endpoint(
        f"10.1.0.{number}", node, zones=[zone] if zone else [], **conditions
    ),
    st.integers(1, 6),
    st.sampled_from([HERE, THERE, "host1", None]),
    st.sampled_from([None, "east", "west"]),
    st.sampled_from([{}, {"ready": False}, {"ready": False, "serving": True, "terminating": True}]),
)
slice_objects = st.builds(
    lambda number, name, items, protocol: slice_object(
        *items, name=f"slice{number}", service=name, ports=[{"name": "", "port": 8080, "protocol": protocol}]
    ),
    st.integers(1, 3),
    st.sampled_from([*NAMES, ""]),
    st.lists(endpoints, max_size=4),
    st.sampled_from(["TCP", "UDP"]),
)
host_ports = st.tuples(
    st.sampled_from([Name("default", "pod1"), Name("default", "pod2")]),
    st.lists(
        st.sampled_from(
            [
                HostPort(address, port, Protocol.TCP, Backend("10.1.0.9", 80))
                for address in ("", "192.0.2.1")
                for port in (30080, 8080)
            ]
        ),
        max_size=2,
        unique=True,
    ),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("service"), service_objects),
        st.tuples(st.just("delete service"), st.sampled_from(NAMES)),
        st.tuples(st.just("slice"), slice_objects),
        st.tuples(st.just("slice"), slice_objects),
        st.tuples(st.just("delete slice"), st.sampled_from(["slice1", "slice2", "slice3"])),
        st.tuples(st.just("host ports"), host_ports),
        st.tuples(st.just("context"), st.sampled_from(CONTEXTS)),
        st.tuples(st.just("flush"), st.sampled_from([None, 1, 2])),
    ),
    max_size=30,
)


@dataclass
class Objects:
    """What the API has after the steps."""

    services: dict[str, Service] = field(default_factory=dict)
    slices: dict[str, Slice] = field(default_factory=dict)
    host_ports: dict[Name, tuple[HostPort, ...]] = field(default_factory=dict)
    context: NodeContext = CONTEXT


def run(value: Registry, tables: Tables, script: list[tuple[str, Any]]) -> Objects:
    objects = Objects()
    for what, item in script:
        if what == "service":
            service = parse.service(item)
            objects.services[service.name.name] = service
            value.set_service(service)
        elif what == "delete service":
            objects.services.pop(item, None)
            value.delete_service(Name("default", item))
        elif what == "slice":
            one = parse.endpoint_slice(item)
            objects.slices[one.name.name] = one
            value.set_slice(one)
        elif what == "delete slice":
            objects.slices.pop(item, None)
            value.delete_slice(Name("default", item))
        elif what == "host ports":
            objects.host_ports[item[0]] = tuple(item[1])
            value.set_host_ports(item[0], item[1])
        elif what == "context":
            objects.context = item
            value.set_context(item)
        else:
            feed(value, tables, item)
    feed(value, tables)
    return objects


@settings(deadline=None, max_examples=300)
@given(steps)
def test_the_tables_are_those_of_the_final_objects(script: list[tuple[str, Any]]) -> None:
    value, tables = Registry(CONTEXT), Tables()
    objects = run(value, tables, script)
    assert_equal(value, tables)
    frontends, checks = model(
        objects.services.values(), objects.slices.values(), objects.host_ports, objects.context
    )
    assert meaning(value) == frontends
    assert {
        port: (check.service, check.local_endpoints) for port, check in value.health_checks().items()
    } == checks


@settings(deadline=None, max_examples=150)
@given(steps)
def test_problems_are_those_of_a_registry_that_starts_with_the_final_objects(
    script: list[tuple[str, Any]],
) -> None:
    value = Registry(CONTEXT)
    objects = run(value, Tables(), script)
    fresh = Registry(objects.context)
    for service in objects.services.values():
        fresh.set_service(service)
    for item in objects.slices.values():
        fresh.set_slice(item)
    for pod, wanted in objects.host_ports.items():
        fresh.set_host_ports(pod, wanted)
    fresh.flush()
    assert sorted(value.problems(), key=repr) == sorted(fresh.problems(), key=repr)
    assert meaning(value) == meaning(fresh)


@settings(deadline=None, max_examples=150)
@given(steps, st.integers(0, 6), st.integers(0, 6))
def test_full_tables_are_never_overfilled_nor_left_half_empty(
    script: list[tuple[str, Any]], lists: int, frontends: int
) -> None:
    value, tables = Registry(CONTEXT, Limits(frontends=frontends, backends=lists)), Tables()
    objects = run(value, tables, script)
    assert_equal(value, tables)
    used = sum(map(len, tables.lists.values()))
    assert used <= lists
    assert len(tables.frontends) <= frontends
    wanted, _ = model(objects.services.values(), objects.slices.values(), objects.host_ports, objects.context)
    present = meaning(value)
    for key, found in present.items():
        assert set(found.inside) <= set(wanted[key].inside)
        assert set(found.outside) <= set(wanted[key].outside)
        cut = found != wanted[key]
        assert not cut or used == lists, "room for somebody who was cut short"
    assert len(present) == min(len(wanted), frontends)


def test_frontends_that_find_no_room_after_all_are_not_written_again() -> None:
    """Two lists are wanted, one backend fits: what the second try gives back is what was there."""
    ports = [
        {"name": "", "port": 0, "protocol": "TCP", "nodePort": 0},
        {"name": "", "port": 80, "protocol": "UDP", "nodePort": 30080},
    ]
    service = service_object(
        "b", type="ClusterIP", clusterIP="10.152.183.1", ports=ports, internalTrafficPolicy="Local"
    )
    backends = [endpoint("10.1.0.1", HERE, zones=[]), endpoint("10.1.0.2", THERE, zones=[])]
    item = slice_object(
        *backends, name="slice1", service="b", ports=[{"name": "", "port": 8080, "protocol": "UDP"}]
    )
    value, tables = Registry(CONTEXT, Limits(frontends=2, backends=1)), Tables()
    run(value, tables, [("service", service), ("flush", None), ("slice", item)])
    assert_equal(value, tables)


def test_a_health_check_that_loses_its_port_at_once_is_not_removed() -> None:
    """It is opened and closed in one batch: nobody has heard of it."""
    port = {"name": "", "port": 80, "protocol": "TCP"}
    newer = service_object(
        "a",
        type="LoadBalancer",
        clusterIP="10.152.183.1",
        ports=[{**port, "nodePort": 30080}],
        externalTrafficPolicy="Local",
        healthCheckNodePort=32000,
    )
    older = service_object(
        "b", type="NodePort", clusterIP="10.152.183.2", ports=[{**port, "nodePort": 32000}]
    )
    newer["metadata"]["creationTimestamp"] = "2021-01-01T00:00:00Z"
    older["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    value, tables = Registry(CONTEXT), Tables()
    run(value, tables, [("service", newer), ("service", older)])
    assert_equal(value, tables)
    assert not tables.health_checks
