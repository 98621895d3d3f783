"""What one service means on a node: frontends, and who is behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from podwire.service.compile import Compiled, compile_host_ports, compile_service
from podwire.service.model import (
    ANY_ADDRESS,
    Backend,
    Flags,
    FrontendKey,
    HealthCheck,
    HostPort,
    Name,
    NodeContext,
    Protocol,
    Service,
    Slice,
)

from .objects import CONTEXT, HERE, THERE, endpoint, endpoint_slice, service

TCP = Protocol.TCP


def compiled(value: Service, *slices: Slice, context: NodeContext = CONTEXT) -> Compiled:
    return compile_service(value, slices, context)


def frontends(value: Compiled) -> dict[tuple[str, int], Flags]:
    return {(key.address, key.port): flags for port in value.ports for key, flags in port.frontends.items()}


def cluster(value: Compiled) -> list[str]:
    return [backend.address for port in value.ports for backend in port.cluster]


def local(value: Compiled) -> list[str] | None:
    [port] = value.ports
    return None if port.local is None else [backend.address for backend in port.local]


def reasons(value: Compiled) -> list[str]:
    return [problem.reason for problem in value.problems]


def balancer(*addresses: str) -> dict[str, Any]:
    return {"loadBalancer": {"ingress": [{"ip": address} for address in addresses]}}


# -- frontends -------------------------------------------------------------------------------------


def test_every_kind_of_frontend() -> None:
    value = compiled(
        service(
            type="LoadBalancer",
            ports=[{"port": 80, "nodePort": 30080}],
            externalIPs=["203.0.113.1"],
            status=balancer("198.51.100.1"),
        ),
        endpoint_slice(endpoint("10.1.0.5")),
    )
    assert frontends(value) == {
        ("10.152.183.5", 80): Flags.CLUSTER_IP,
        ("203.0.113.1", 80): Flags.EXTERNAL_IP,
        ("198.51.100.1", 80): Flags.LOAD_BALANCER,
        (ANY_ADDRESS, 30080): Flags.NODE_PORT,
    }
    assert not value.problems


def test_no_node_port_where_none_was_allocated() -> None:
    value = compiled(service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert frontends(value) == {("10.152.183.5", 80): Flags.CLUSTER_IP}


def test_an_address_may_be_of_two_kinds() -> None:
    value = compiled(
        service(type="LoadBalancer", externalIPs=["198.51.100.1"], status=balancer("198.51.100.1"))
    )
    assert frontends(value)["198.51.100.1", 80] == Flags.EXTERNAL_IP | Flags.LOAD_BALANCER


def test_policies_mark_the_frontends_they_are_for() -> None:
    value = compiled(
        service(
            type="NodePort",
            ports=[{"port": 80, "nodePort": 30080}],
            externalTrafficPolicy="Local",
            internalTrafficPolicy="Local",
        )
    )
    assert frontends(value) == {
        ("10.152.183.5", 80): Flags.CLUSTER_IP | Flags.INTERNAL_LOCAL,
        (ANY_ADDRESS, 30080): Flags.NODE_PORT | Flags.EXTERNAL_LOCAL,
    }


def test_maglev_is_for_clients_from_outside() -> None:
    value = compiled(
        service(type="NodePort", ports=[{"port": 80, "nodePort": 30080}]),
        context=replace(CONTEXT, maglev=True),
    )
    assert frontends(value) == {
        ("10.152.183.5", 80): Flags.CLUSTER_IP,
        (ANY_ADDRESS, 30080): Flags.NODE_PORT | Flags.MAGLEV,
    }


def test_source_ranges_are_for_the_load_balancers_addresses_alone() -> None:
    value = compiled(
        service(
            type="LoadBalancer",
            ports=[{"port": 80, "nodePort": 30080}],
            loadBalancerSourceRanges=["192.0.2.0/24"],
            status=balancer("198.51.100.1"),
        )
    )
    assert [key for key, flags in frontends(value).items() if flags & Flags.SOURCE_RANGES] == [
        ("198.51.100.1", 80)
    ]
    assert value.ports[0].source_ranges == ("192.0.2.0/24",)


def test_headless_services_have_no_frontend() -> None:
    assert compiled(service(clusterIP="None"), endpoint_slice(endpoint("10.1.0.5"))) == Compiled()


@pytest.mark.parametrize(
    ("spec", "reason", "left"),
    [
        pytest.param({"externalIPs": ["192.0.2.2"]}, "NodeAddress", {}, id="external IP of a node"),
        pytest.param(
            {"type": "LoadBalancer", "status": balancer("192.0.2.1")}, "NodeAddress", {}, id="its balancer's"
        ),
        pytest.param(
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": 8080}]},
            "NodePortOutOfRange",
            {},
            id="node port out of range",
        ),
    ],
)
def test_what_cannot_be_served_is_a_problem_and_the_rest_works(
    spec: dict[str, Any], reason: str, left: dict[Any, Any]
) -> None:
    value = compiled(service(**spec), endpoint_slice(endpoint("10.1.0.5")))
    assert reasons(value) == [reason]
    assert frontends(value) == {("10.152.183.5", 80): Flags.CLUSTER_IP, **left}
    assert cluster(value) == ["10.1.0.5"]


def test_a_cluster_ip_out_of_the_range_is_served_but_told() -> None:
    value = compiled(service(clusterIP="10.99.0.1"))
    assert reasons(value) == ["ClusterIPOutOfRange"]
    assert "10.152.183.0/24" in value.problems[0].message
    assert frontends(value) == {("10.99.0.1", 80): Flags.CLUSTER_IP}


def test_host_ports() -> None:
    backend = Backend("10.1.0.5", 80)
    value = compile_host_ports(
        Name("default", "pod"),
        [
            HostPort("", 8080, TCP, backend),
            HostPort("127.0.0.1", 8081, TCP, backend),
            HostPort("", 0, TCP, backend),
        ],
    )
    assert frontends(value) == {(ANY_ADDRESS, 8080): Flags.HOST_PORT, ("127.0.0.1", 8081): Flags.HOST_PORT}
    assert [port.cluster for port in value.ports] == [(backend,)] * 2
    assert [(problem.kind, problem.reason) for problem in value.problems] == [("Pod", "InvalidPort")]


# -- endpoints -------------------------------------------------------------------------------------


def test_target_ports_come_from_the_slices_by_name() -> None:
    """A named target port is another number in another slice."""
    ports = [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "admin", "port": 81, "targetPort": 9000},
    ]
    value = compiled(
        service(ports=ports),
        endpoint_slice(
            endpoint("10.1.0.5"), ports=[{"name": "http", "port": 8080}, {"name": "admin", "port": 9000}]
        ),
        endpoint_slice(endpoint("10.1.0.6"), name="web-2", ports=[{"name": "http", "port": 8000}]),
    )
    assert [port.cluster for port in value.ports] == [
        (Backend("10.1.0.5", 8080), Backend("10.1.0.6", 8000)),
        (Backend("10.1.0.5", 9000),),
    ]
    assert not value.problems


def test_a_port_is_matched_by_protocol_too() -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    value = compiled(
        service(ports=ports), endpoint_slice(endpoint("10.1.0.5"), ports=[{"name": "dns", "port": 53}])
    )
    assert cluster(value) == []
    assert reasons(value) == ["PortWithoutEndpoints"]


def test_slices_made_by_hand_for_a_service_without_selector() -> None:
    value = compiled(service(), endpoint_slice(endpoint("198.18.0.1", node=None)))
    assert cluster(value) == ["198.18.0.1"]


READY = endpoint("10.1.0.1")
STARTING = endpoint("10.1.0.2", ready=False)
DRAINING = endpoint("10.1.0.3", ready=False, serving=True, terminating=True)
ENDING = endpoint("10.1.0.4", ready=False, serving=False, terminating=True)


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        pytest.param([READY, STARTING, DRAINING, ENDING], ["10.1.0.1"], id="the ready alone"),
        pytest.param([STARTING, DRAINING, ENDING], ["10.1.0.3"], id="else what serves while terminating"),
        pytest.param([STARTING, ENDING], [], id="else nobody"),
    ],
)
def test_conditions(endpoints: list[dict[str, Any]], expected: list[str]) -> None:
    assert cluster(compiled(service(), endpoint_slice(*endpoints))) == expected


def test_publish_not_ready_addresses() -> None:
    value = compiled(service(publishNotReadyAddresses=True), endpoint_slice(READY, STARTING, DRAINING))
    assert cluster(value) == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]


def test_an_endpoint_in_two_slices_counts_once_and_by_its_better_condition() -> None:
    """So it is while the controller moves endpoints from one slice to another."""
    first = endpoint_slice(endpoint("10.1.0.5", ready=False), endpoint("10.1.0.6"))
    second = endpoint_slice(endpoint("10.1.0.5"), endpoint("10.1.0.6", ready=False), name="web-2")
    for slices in ((first, second), (second, first)):
        assert cluster(compiled(service(), *slices)) == ["10.1.0.5", "10.1.0.6"]


LOCAL = service(type="NodePort", externalTrafficPolicy="Local", ports=[{"port": 80, "nodePort": 30080}])


def test_local_backends_are_those_of_this_node() -> None:
    both = endpoint_slice(endpoint("10.1.0.5"), endpoint("10.1.1.5", THERE), endpoint("10.1.9.9", None))
    value = compiled(LOCAL, both)
    assert cluster(value) == ["10.1.0.5", "10.1.1.5", "10.1.9.9"]
    assert local(value) == ["10.1.0.5"]
    assert local(compiled(service(), both)) is None, "nobody asks for them"


def test_a_node_is_known_by_its_host_name_too() -> None:
    assert local(compiled(LOCAL, endpoint_slice(endpoint("10.1.0.5", "host1")))) == ["10.1.0.5"]


def test_local_draining_endpoints_serve_when_no_local_one_is_ready() -> None:
    value = compiled(LOCAL, endpoint_slice(endpoint("10.1.1.5", THERE), DRAINING))
    assert cluster(value) == ["10.1.1.5"]
    assert local(value) == ["10.1.0.3"]


@pytest.mark.parametrize(
    ("zones", "context", "expected"),
    [
        pytest.param(["east", "west"], CONTEXT, ["10.1.0.1"], id="own zone"),
        pytest.param(["west", "west"], CONTEXT, ["10.1.0.1", "10.1.0.2"], id="nobody for this zone: all"),
        pytest.param(["east", None], CONTEXT, ["10.1.0.1", "10.1.0.2"], id="one without hint: all"),
        pytest.param(
            ["east", "west"], replace(CONTEXT, zone=""), ["10.1.0.1", "10.1.0.2"], id="zone unknown: all"
        ),
    ],
)
def test_topology_hints(zones: list[str | None], context: NodeContext, expected: list[str]) -> None:
    items = [endpoint(f"10.1.0.{n}", zones=[zone] if zone else []) for n, zone in enumerate(zones, start=1)]
    assert cluster(compiled(service(), endpoint_slice(*items), context=context)) == expected


def test_hints_for_nodes_come_before_those_for_zones() -> None:
    items = [endpoint("10.1.0.1", zones=["east"]), endpoint("10.1.0.2", zones=["east"])]
    items[0]["hints"]["forNodes"] = [{"name": HERE}]
    items[1]["hints"]["forNodes"] = [{"name": THERE}]
    assert cluster(compiled(service(), endpoint_slice(*items))) == ["10.1.0.1"]


# -- health checks and problems --------------------------------------------------------------------


def test_the_health_check_counts_ready_local_endpoints() -> None:
    value = service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32000,
        ports=[{"name": "a", "port": 80}, {"name": "b", "port": 81}],
    )
    ports = [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}]
    item = endpoint_slice(READY, DRAINING, endpoint("10.1.1.5", THERE), ports=ports)
    result = compiled(value, item)
    assert result.health_check_port == 32000
    assert result.health_check == HealthCheck(Name("default", "web"), 1)


@pytest.mark.parametrize("ports", [[], [{"name": "", "port": None}]])
def test_endpoints_without_a_port_are_a_problem(ports: list[Any]) -> None:
    value = compiled(service(), endpoint_slice(READY, ports=ports))
    assert "SliceWithoutPorts" in reasons(value)
    assert "web-1" in value.problems[-1].message
    assert cluster(value) == []


def test_an_empty_slice_is_no_problem() -> None:
    assert not compiled(service(), endpoint_slice(ports=[])).problems
    assert not compiled(service()).problems


def test_a_frontend_of_another_ports_is_a_problem() -> None:
    ports = [
        {"name": "a", "port": 80, "nodePort": 30080},
        {"name": "b", "port": 81, "nodePort": 30080},
    ]
    value = compiled(service(type="NodePort", ports=ports))
    assert reasons(value) == ["DuplicatePort"]
    assert [list(port.frontends) for port in value.ports] == [
        [FrontendKey("10.152.183.5", 80, TCP), FrontendKey(ANY_ADDRESS, 30080, TCP)],
        [FrontendKey("10.152.183.5", 81, TCP)],
    ]
