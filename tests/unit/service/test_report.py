"""What people see of services."""

from __future__ import annotations

import json
from typing import Any

from podwire.service import report
from podwire.service.model import Backend, HostPort, Name, Problem, Protocol, Service, Slice
from podwire.service.registry import Registry

from .objects import CONTEXT, THERE, endpoint, endpoint_slice, service

WEB = Name("default", "web")


def registry(*objects: Service | Slice) -> Registry:
    value = Registry(CONTEXT)
    for item in objects:
        if isinstance(item, Service):
            value.set_service(item)
        else:
            value.set_slice(item)
    value.flush()
    return value


def details(value: Registry, name: Name = WEB) -> dict[str, Any]:
    found = report.service_details(value, name)
    assert found is not None
    return json.loads(json.dumps(found))


def test_a_service_in_the_list() -> None:
    value = registry(
        service(
            type="NodePort",
            ports=[{"name": "http", "port": 80, "nodePort": 30080}],
            externalTrafficPolicy="Local",
        ),
        endpoint_slice(
            endpoint("10.1.0.5"), endpoint("10.1.1.5", THERE), ports=[{"name": "http", "port": 8080}]
        ),
    )
    common = {"protocol": "TCP", "port_name": "http", "id": 1, "backends": 2, "maglev": False}
    assert report.service_list(value) == {
        "services": [
            {
                "namespace": "default",
                "name": "web",
                "type": "NodePort",
                "note": "",
                "frontends": [
                    {
                        "kind": "ClusterIP",
                        "address": "10.152.183.5",
                        "port": 80,
                        "external_backends": None,
                        "policy": "Cluster",
                        **common,
                    },
                    {
                        "kind": "NodePort",
                        "address": "0.0.0.0",
                        "port": 30080,
                        "external_backends": 1,
                        "policy": "Local",
                        **common,
                    },
                ],
                "problems": [],
            }
        ]
    }


def test_services_that_are_not_served_say_why() -> None:
    [item] = report.service_list(registry(service(clusterIP="None")))["services"]
    assert item["frontends"] == []
    assert "headless" in item["note"]


def test_a_frontend_that_another_service_has_is_not_shown_as_ones_own() -> None:
    value = registry(service("a"), service("b"))
    first, second = report.service_list(value)["services"]
    assert len(first["frontends"]) == 1
    assert second["frontends"] == []
    assert [problem["reason"] for problem in second["problems"]] == ["Conflict"]


def test_problems_from_elsewhere_are_shown() -> None:
    value = registry(service())
    more = [*value.problems(), Problem("default", "web", "NotProgrammed", "the map is full")]
    [item] = report.service_list(value, more)["services"]
    assert item["problems"] == [{"reason": "NotProgrammed", "message": "the map is full"}]


def test_backends_and_their_states() -> None:
    value = registry(
        service(),
        endpoint_slice(
            endpoint("10.1.0.1"),
            endpoint("10.1.0.2", THERE, ready=False),
            endpoint("10.1.0.3", None, ready=False, serving=True, terminating=True),
            endpoint("10.1.0.4", ready=False, serving=False, terminating=True),
        ),
    )
    found = [
        (item["address"], item["node"], item["local"], item["state"], item["in_use"])
        for item in details(value)["backends"]
    ]
    assert found == [
        ("10.1.0.1", "node1", True, "ready", True),
        ("10.1.0.2", "node2", False, "not ready", False),
        ("10.1.0.3", None, False, "terminating", False),
        ("10.1.0.4", "node1", True, "terminated", False),
    ]


def test_details_of_a_load_balancer() -> None:
    value = registry(
        service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            healthCheckNodePort=32000,
            sessionAffinity="ClientIP",
            loadBalancerSourceRanges=["192.0.2.0/24"],
        ),
        endpoint_slice(endpoint("10.1.0.1")),
    )
    found = details(value)
    assert found["health_check"] == {"port": 32000, "local_endpoints": 1}
    assert found["affinity_seconds"] == 10800
    assert found["source_ranges"] == ["192.0.2.0/24"]
    assert (found["internal_policy"], found["external_policy"]) == ("Cluster", "Local")
    assert found["ports"] == [
        {"name": "", "protocol": "TCP", "port": 80, "node_port": None, "target_port": "8080"}
    ]


def test_a_pod_with_host_ports() -> None:
    value = registry()
    pod = Name("default", "pod")
    value.set_host_ports(pod, [HostPort("", 8080, Protocol.TCP, Backend("10.1.0.9", 80))])
    value.flush()
    found = details(value, pod)
    assert found["type"] == "HostPort"
    assert [(item["kind"], item["port"]) for item in found["frontends"]] == [("HostPort", 8080)]
    assert [(item["address"], item["node"]) for item in found["backends"]] == [("10.1.0.9", "node1")]


def test_what_is_not_there() -> None:
    assert report.service_details(registry(), WEB) is None
