"""Changes of objects become the smallest changes of the tables, whatever else there is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from podwire.service.changes import Changes
from podwire.service.model import (
    ANY_ADDRESS,
    Backend,
    BackendList,
    Flags,
    FrontendKey,
    HealthCheck,
    HostPort,
    Name,
    Protocol,
    Service,
)
from podwire.service.registry import POD, SERVICE, Limits, Owner, Registry

from .objects import CONTEXT, THERE, endpoint, endpoint_slice, service

TCP, UDP = Protocol.TCP, Protocol.UDP
WEB = Name("default", "web")
CLUSTER_IP = FrontendKey("10.152.183.5", 80, TCP)


def registry(*services: Service, **more: Any) -> Registry:
    value = Registry(CONTEXT, **more)
    for item in services:
        value.set_service(item)
    return value


def backends(value: Registry, key: FrontendKey = CLUSTER_IP, *, outside: bool = False) -> list[str]:
    frontend = value.frontends()[key]
    number = frontend.external_list if outside else frontend.list
    count = frontend.external_count if outside else frontend.count
    found = value.lists()[number].backends if number else ()
    assert len(found) == count
    return [backend.address for backend in found]


def reasons(value: Registry) -> list[tuple[str, str]]:
    return [(problem.name, problem.reason) for problem in value.problems()]


def node_port(name: str, number: int, *, address: str, created: str = "2024-01-01T00:00:00Z") -> Service:
    value = service(name, type="NodePort", clusterIP=address, ports=[{"port": 80, "nodePort": number}])
    return replace(value, created=created)


# -- one service -----------------------------------------------------------------------------------


def test_objects_may_come_in_any_order() -> None:
    value = registry()
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    assert not value.flush().frontends
    value.set_service(service())
    value.flush()
    assert backends(value) == ["10.1.0.5"]


def test_a_service_without_endpoints_has_a_frontend_without_backends() -> None:
    value = registry(service())
    value.flush()
    assert backends(value) == []


def test_a_change_of_backends_makes_a_new_list_and_removes_the_old_one() -> None:
    value = registry(service())
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    [old] = value.flush().lists
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), endpoint("10.1.0.6")))
    changes = value.flush()
    [(new, content)] = changes.lists.items()
    assert new > old
    assert content == BackendList((Backend("10.1.0.5", 8080), Backend("10.1.0.6", 8080)))
    assert changes.removed_lists == {old: 1}
    assert list(changes.frontends) == [CLUSTER_IP]
    assert not changes.removed_frontends


def test_a_change_that_means_nothing_here_changes_nothing() -> None:
    value = registry(service())
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), endpoint("10.1.0.6", ready=False)))
    value.flush()
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    value.set_service(service())
    assert not value.flush()
    assert not value.pending


def test_the_last_endpoint_goes_and_the_frontend_stays() -> None:
    value = registry(service())
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    value.flush()
    value.delete_slice(Name("default", "web-1"))
    changes = value.flush()
    assert changes.frontends[CLUSTER_IP].count == 0
    assert changes.removed_lists == {1: 1}


def test_a_deleted_service_leaves_nothing() -> None:
    spec = {
        "sessionAffinity": "ClientIP",
        "type": "LoadBalancer",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
    }
    status = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
    value = registry(service(status=status, **spec))
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    added = value.flush()
    assert added.affinity_members == {(1, Backend("10.1.0.5", 8080))}
    assert added.source_ranges == {(1, "192.0.2.0/24")}
    value.delete_service(WEB)
    removed = value.flush()
    assert removed.removed_frontends == set(added.frontends)
    assert removed.removed_lists == {1: 1}
    assert removed.removed_affinity_members == added.affinity_members
    assert removed.removed_source_ranges == added.source_ranges
    assert not value.frontends()
    assert not value.lists()
    assert not list(value.affinity_members())
    assert not list(value.source_ranges())
    with pytest.raises(KeyError):
        value.service_of(1)


def test_what_came_and_went_between_two_flushes_is_not_told() -> None:
    value = registry(service())
    value.delete_service(WEB)
    assert not value.flush()


def test_a_slice_that_moves_to_another_service() -> None:
    value = registry(service(), service("other", clusterIP="10.152.183.6"))
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    value.flush()
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), service="other"))
    value.flush()
    assert backends(value) == []
    assert backends(value, FrontendKey("10.152.183.6", 80, TCP)) == ["10.1.0.5"]
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), service=""))
    value.flush()
    assert backends(value, FrontendKey("10.152.183.6", 80, TCP)) == []
    assert value.slice_names() == []


def test_policies_choose_the_list() -> None:
    key = FrontendKey(ANY_ADDRESS, 30080, TCP)
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}
    value = registry(service(**spec, externalTrafficPolicy="Local", internalTrafficPolicy="Local"))
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), endpoint("10.1.1.5", THERE)))
    value.flush()
    assert backends(value) == ["10.1.0.5"], "clients in the cluster by the internal policy"
    assert value.frontends()[CLUSTER_IP].external_list == 0, "a ClusterIP has no clients outside"
    assert backends(value, key) == ["10.1.0.5", "10.1.1.5"], "node ports from inside the cluster reach all"
    assert backends(value, key, outside=True) == ["10.1.0.5"]


def test_equal_lists_are_one() -> None:
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}
    value = registry(service(**spec, externalTrafficPolicy="Local"))
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    assert len(value.flush().lists) == 1


@pytest.mark.parametrize(("policy", "marked"), [("Local", [1]), ("Cluster", [2])])
def test_only_the_list_for_outside_needs_a_maglev_table(policy: str, marked: list[int]) -> None:
    value = Registry(replace(CONTEXT, maglev=True))
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}
    value.set_service(service(**spec, externalTrafficPolicy=policy))
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), endpoint("10.1.1.5", THERE)))
    lists = value.flush().lists.values()
    assert [len(item.backends) for item in lists if item.maglev] == marked


def test_every_port_has_a_number_of_its_own_which_stays() -> None:
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    value = registry(service(ports=ports))
    before = {key: frontend.service for key, frontend in value.flush().frontends.items()}
    assert len(set(before.values())) == 2
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), ports=[{"name": "a", "port": 8080}]))
    value.flush()
    assert {key: frontend.service for key, frontend in value.frontends().items()} == before
    owner, port = value.service_of(before[FrontendKey("10.152.183.5", 81, TCP)])
    assert (owner, port.name) == (Owner(SERVICE, WEB), "b")


def test_numbers_go_on_where_an_earlier_agent_stopped() -> None:
    other = FrontendKey("10.152.183.6", 80, TCP)
    value = registry(
        service(), service("other", clusterIP="10.152.183.6"), first_list=100, known_services={CLUSTER_IP: 7}
    )
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    changes = value.flush()
    assert changes.frontends[CLUSTER_IP].service == 7
    assert changes.frontends[other].service == 8
    assert list(changes.lists) == [100]


def test_udp_backends_that_left_are_released() -> None:
    value = registry(service(ports=[{"port": 53, "protocol": "UDP"}]))
    ports = [{"name": "", "port": 5353, "protocol": "UDP"}]
    value.set_slice(endpoint_slice(endpoint("10.1.0.5"), endpoint("10.1.0.6"), ports=ports))
    assert not value.flush().released_udp
    value.set_slice(endpoint_slice(endpoint("10.1.0.6"), endpoint("10.1.0.7"), ports=ports))
    assert value.flush().released_udp == {(1, Backend("10.1.0.5", 5353))}
    value.delete_service(WEB)
    assert {backend.address for _, backend in value.flush().released_udp} == {"10.1.0.6", "10.1.0.7"}


def test_tcp_backends_that_left_drain() -> None:
    value = registry(service())
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    value.flush()
    value.set_slice(endpoint_slice())
    assert not value.flush().released_udp


def test_affinity_can_be_switched_off() -> None:
    value = registry(service(sessionAffinity="ClientIP"))
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    assert value.flush().frontends[CLUSTER_IP].affinity_seconds == 10800
    value.set_service(service())
    changes = value.flush()
    assert changes.removed_affinity_members == {(1, Backend("10.1.0.5", 8080))}
    assert changes.frontends[CLUSTER_IP].affinity_seconds == 0
    assert not changes.lists


# -- health checks ---------------------------------------------------------------------------------

HEALTH: dict[str, Any] = {
    "type": "LoadBalancer",
    "externalTrafficPolicy": "Local",
    "healthCheckNodePort": 32000,
}


def test_health_check_ports_open_change_and_close() -> None:
    value = registry(service(**HEALTH))
    assert value.flush().health_checks == {32000: HealthCheck(WEB, 0)}
    value.set_slice(endpoint_slice(endpoint("10.1.0.5")))
    assert value.flush().health_checks == {32000: HealthCheck(WEB, 1)}
    value.set_service(service(**{**HEALTH, "healthCheckNodePort": 32001}))
    changes = value.flush()
    assert changes.health_checks == {32001: HealthCheck(WEB, 1)}
    assert changes.removed_health_checks == {32000}
    value.delete_service(WEB)
    assert value.flush().removed_health_checks == {32001}
    assert not value.health_checks()


def test_a_health_check_port_that_is_an_older_services_node_port_waits_for_it() -> None:
    older = node_port("older", 32000, address="10.152.183.6", created="2020-01-01T00:00:00Z")
    value = registry(service(**HEALTH), older)
    value.flush()
    assert not value.health_checks()
    assert reasons(value) == [("web", "Conflict")]
    value.delete_service(older.name)
    changes = value.flush()
    assert changes.removed_frontends >= {FrontendKey(ANY_ADDRESS, 32000, TCP)}
    assert changes.health_checks == {32000: HealthCheck(WEB, 0)}
    assert not list(value.problems())


def test_a_node_port_gives_way_to_an_older_services_health_check() -> None:
    value = registry(node_port("newer", 32000, address="10.152.183.6", created="2030-01-01T00:00:00Z"))
    key = FrontendKey(ANY_ADDRESS, 32000, TCP)
    assert key in value.flush().frontends
    value.set_service(service(**HEALTH))
    changes = value.flush()
    assert changes.removed_frontends == {key}
    assert value.health_checks() == {32000: HealthCheck(WEB, 0)}
    assert reasons(value) == [("newer", "Conflict")]


def test_a_service_cannot_have_one_port_for_both() -> None:
    value = registry(service(**HEALTH, ports=[{"port": 80, "nodePort": 32000}]))
    value.flush()
    assert not value.health_checks()
    assert FrontendKey(ANY_ADDRESS, 32000, TCP) in value.frontends()
    assert reasons(value) == [("web", "Conflict")]


# -- conflicts -------------------------------------------------------------------------------------

KEY = FrontendKey(ANY_ADDRESS, 30080, TCP)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_oldest_service_has_the_node_port_and_the_other_inherits(order: tuple[int, int]) -> None:
    pair = (
        node_port("old", 30080, address="10.152.183.5", created="2020-01-01T00:00:00Z"),
        node_port("new", 30080, address="10.152.183.6", created="2024-01-01T00:00:00Z"),
    )
    value = registry()
    for index in order:
        value.set_service(pair[index])
        value.flush()
    assert value.service_of(value.frontends()[KEY].service)[0].name == pair[0].name
    [problem] = value.problems()
    assert (problem.name, problem.reason) == ("new", "Conflict")
    assert "node port 30080/TCP belongs to Service default/old" in problem.message
    assert FrontendKey("10.152.183.6", 80, TCP) in value.frontends(), "its ClusterIP works"

    value.delete_service(pair[0].name)
    changes = value.flush()
    assert KEY not in changes.removed_frontends, "never without an owner"
    assert changes.problems == {Owner(SERVICE, pair[1].name): ()}
    assert value.service_of(value.frontends()[KEY].service)[0].name == pair[1].name
    assert not list(value.problems())


def test_a_problem_names_the_present_holder() -> None:
    services = [
        node_port(name, 30080, address=f"10.152.183.{n}", created=f"202{n}-01-01T00:00:00Z")
        for n, name in enumerate(("a", "b", "c"))
    ]
    value = registry(*services)
    value.flush()
    value.delete_service(services[0].name)
    value.flush()
    [problem] = value.problems()
    assert problem.name == "c"
    assert "default/b" in problem.message


def test_a_service_made_anew_is_younger() -> None:
    value = registry(
        node_port("a", 30080, address="10.152.183.5", created="2020-01-01T00:00:00Z"),
        node_port("b", 30080, address="10.152.183.6", created="2021-01-01T00:00:00Z"),
    )
    value.flush()
    value.set_service(node_port("a", 30080, address="10.152.183.5", created="2024-01-01T00:00:00Z"))
    value.flush()
    assert value.service_of(value.frontends()[KEY].service)[0].name.name == "b"
    assert reasons(value) == [("a", "Conflict")]


def test_host_ports_and_node_ports_compete() -> None:
    pod = Name("default", "pod")
    backend = Backend("10.1.0.9", 80)
    value = registry(node_port("web", 30080, address="10.152.183.5"))
    value.set_host_ports(pod, [HostPort("", 30080, TCP, backend)], "2025-01-01T00:00:00Z")
    value.flush()
    [problem] = value.problems()
    assert (problem.kind, problem.name, problem.reason) == (POD, "pod", "Conflict")
    value.delete_service(WEB)
    value.flush()
    assert backends(value, KEY) == backends(value, KEY, outside=True) == ["10.1.0.9"]
    assert value.frontends()[KEY].flags == Flags.HOST_PORT
    value.set_host_ports(pod, [])
    assert value.flush().removed_frontends == {KEY}


# -- nodes -----------------------------------------------------------------------------------------


def test_a_new_node_with_a_services_external_address_takes_the_frontend_away() -> None:
    key = FrontendKey("203.0.113.1", 80, TCP)
    value = registry(service(externalIPs=["203.0.113.1"]), service("other", clusterIP="10.152.183.6"))
    value.flush()
    nodes = CONTEXT.node_addresses | {"203.0.113.1"}
    value.set_context(replace(CONTEXT, node_addresses=nodes))
    assert value.pending == 1, "only the service that has the address"
    changes = value.flush()
    assert changes.removed_frontends == {key}
    assert reasons(value) == [("web", "NodeAddress")]
    value.set_context(CONTEXT)
    value.flush()
    assert key in value.frontends()
    assert not list(value.problems())


def test_another_zone_compiles_everything_again() -> None:
    value = registry(service())
    items = (endpoint("10.1.0.5", zones=["east"]), endpoint("10.1.0.6", zones=["west"]))
    value.set_slice(endpoint_slice(*items))
    value.flush()
    assert backends(value) == ["10.1.0.5"]
    value.set_context(replace(CONTEXT, zone="west"))
    value.flush()
    assert backends(value) == ["10.1.0.6"]


# -- limits ----------------------------------------------------------------------------------------


def endpoints(count: int, first: int = 1) -> list[dict[str, Any]]:
    return [endpoint(f"10.1.0.{number}") for number in range(first, first + count)]


def test_more_backends_than_fit_are_left_out_and_come_back() -> None:
    value = registry(service(), service("other", clusterIP="10.152.183.6"), limits=Limits(backends=5))
    value.set_slice(endpoint_slice(*endpoints(3)))
    value.set_slice(endpoint_slice(*endpoints(4, 100), name="other-1", service="other"))
    value.flush()
    other = FrontendKey("10.152.183.6", 80, TCP)
    assert len(backends(value)) + len(backends(value, other)) == 5
    [problem] = value.problems()
    assert problem.reason == "TooManyBackends"
    assert "2 backends are left out" in problem.message
    value.set_slice(endpoint_slice(*endpoints(1)))
    value.flush()
    assert len(backends(value)) == 1
    assert len(backends(value, other)) == 4
    assert not list(value.problems())


def test_both_lists_of_a_service_share_the_room() -> None:
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "externalTrafficPolicy": "Local"}
    value = registry(service(**spec), limits=Limits(backends=4))
    value.set_slice(endpoint_slice(*endpoints(2), endpoint("10.1.1.5", THERE)))
    value.flush()
    assert backends(value) == ["10.1.0.1", "10.1.0.2", "10.1.1.5"]
    assert backends(value, FrontendKey(ANY_ADDRESS, 30080, TCP), outside=True) == ["10.1.0.1"]
    assert "1 backends are left out" in next(value.problems()).message


def test_a_full_table_is_left_alone_until_something_changes() -> None:
    value = registry(service(), limits=Limits(backends=2))
    value.set_slice(endpoint_slice(*endpoints(3)))
    assert value.flush()
    for _ in range(3):
        assert value.flush() == Changes()
    value.set_slice(endpoint_slice(*endpoints(4)))
    assert not value.flush().lists, "the same two as before"


def test_a_list_that_is_too_long() -> None:
    value = registry(service(), limits=Limits(list_length=2))
    value.set_slice(endpoint_slice(*endpoints(3)))
    value.flush()
    assert backends(value) == ["10.1.0.1", "10.1.0.2"]
    assert reasons(value) == [("web", "TooManyBackends")]


def test_more_frontends_than_fit() -> None:
    value = registry(service(), limits=Limits(frontends=1))
    value.flush()
    value.set_service(service("other", clusterIP="10.152.183.6"))
    value.flush()
    assert list(value.frontends()) == [CLUSTER_IP]
    assert reasons(value) == [("other", "TooManyFrontends")]
    value.delete_service(WEB)
    value.flush()
    assert list(value.frontends()) == [FrontendKey("10.152.183.6", 80, TCP)]
    assert not list(value.problems())


# -- batches ---------------------------------------------------------------------------------------


def test_batches() -> None:
    value = registry(*(service(f"s{n}", clusterIP=f"10.152.183.{n}") for n in range(1, 8)))
    sizes = []
    while changes := value.flush(3):
        sizes.append(len(changes.frontends))
    assert sizes == [3, 3, 1]
    assert not value.pending


def test_a_batch_that_changes_nothing_does_not_end_the_work() -> None:
    value = registry(*(service(f"h{n}", clusterIP="None") for n in range(5)), service())
    assert list(value.flush(2).frontends) == [CLUSTER_IP]
