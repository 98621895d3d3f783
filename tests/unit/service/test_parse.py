"""What the API says of services and slices, of every version, good and bad."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.service import parse
from podwire.service.model import Protocol, State

from .objects import endpoint, endpoint_slice, service, service_object, slice_object


def reasons(value: Any) -> list[str]:
    return [problem.reason for problem in value.problems]


# -- services --------------------------------------------------------------------------------------


def test_a_plain_service() -> None:
    value = service()
    assert value.cluster_address == "10.152.183.5"
    assert [(port.port, port.name.protocol, port.target) for port in value.ports] == [
        (80, Protocol.TCP, "8080")
    ]
    assert not value.unhandled
    assert not value.problems
    assert value.affinity_seconds == 0
    assert value.source_ranges is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"clusterIP": "None"}, "headless", id="headless"),
        pytest.param({"labels": {"service.kubernetes.io/headless": ""}}, "headless", id="headless by label"),
        pytest.param(
            {"type": "ExternalName", "clusterIP": None, "externalName": "x.example"}, "x.example", id="name"
        ),
        pytest.param(
            {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}, "'other'", id="another proxy's"
        ),
        pytest.param({"clusterIP": ""}, "no ClusterIP yet", id="not allocated yet"),
        pytest.param({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"]}, "fd00::5", id="IPv6 only"),
    ],
)
def test_services_that_are_not_ours_say_why(changes: dict[str, Any], why: str) -> None:
    assert why in service(**changes).unhandled


def test_the_ipv4_address_of_a_dual_stack_service_counts() -> None:
    value = service(clusterIP="fd00::5", clusterIPs=["fd00::5", "10.152.183.9"])
    assert value.cluster_address == "10.152.183.9"


def test_affinity_has_kubernetes_default_timeout() -> None:
    assert service(sessionAffinity="ClientIP").affinity_seconds == 10800
    config = {"clientIP": {"timeoutSeconds": 42}}
    assert service(sessionAffinity="ClientIP", sessionAffinityConfig=config).affinity_seconds == 42
    assert service(sessionAffinity="None", sessionAffinityConfig=config).affinity_seconds == 0


def test_an_impossible_affinity_timeout_is_a_problem() -> None:
    value = service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 0}})
    assert reasons(value) == ["InvalidAffinityTimeout"]
    assert value.affinity_seconds == 10800


def test_load_balancer_addresses_but_those_of_a_proxy() -> None:
    ingress = [
        {"ip": "198.51.100.1"},
        {"ip": "198.51.100.2", "ipMode": "VIP"},
        {"ip": "198.51.100.3", "ipMode": "Proxy"},
        {"ip": "2001:db8::1"},
        {"hostname": "lb.example"},
    ]
    value = service(type="LoadBalancer", status={"loadBalancer": {"ingress": ingress}})
    assert value.load_balancer_addresses == ("198.51.100.1", "198.51.100.2")
    assert not value.problems
    assert (
        service(type="NodePort", status={"loadBalancer": {"ingress": ingress}}).load_balancer_addresses == ()
    )


def test_the_health_check_port_needs_a_load_balancer_with_local_policy() -> None:
    spec = {"healthCheckNodePort": 32000, "type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    assert service(**spec).health_check_port == 32000
    assert service(**{**spec, "externalTrafficPolicy": "Cluster"}).health_check_port == 0
    assert service(**{**spec, "type": "NodePort"}).health_check_port == 0


def test_source_ranges_are_normalised() -> None:
    given = ["192.0.2.7/24", " 198.51.100.0/24 ", "2001:db8::/32"]
    assert service(type="LoadBalancer", loadBalancerSourceRanges=given).source_ranges == (
        "192.0.2.0/24",
        "198.51.100.0/24",
    )


def test_source_ranges_without_a_usable_one_shut_the_service() -> None:
    value = service(type="LoadBalancer", loadBalancerSourceRanges=["2001:db8::/32", "nonsense"])
    assert value.source_ranges == ()
    assert reasons(value) == ["InvalidSourceRange", "NoSourceRange"]


@pytest.mark.parametrize(
    ("port", "reason"),
    [
        pytest.param({"port": 0}, "InvalidPort", id="port 0"),
        pytest.param({"port": 65536}, "InvalidPort", id="port out of range"),
        pytest.param({"port": "http"}, "InvalidPort", id="port is a word"),
        pytest.param({}, "InvalidPort", id="no port"),
        pytest.param({"port": 81, "protocol": "QUIC"}, "UnknownProtocol", id="unknown protocol"),
        pytest.param({"name": "x", "port": 80}, "DuplicatePort", id="number used twice"),
        pytest.param({"name": "", "port": 81}, "DuplicatePort", id="name used twice"),
    ],
)
def test_a_bad_port_is_a_problem_and_the_others_stay(port: dict[str, Any], reason: str) -> None:
    value = service(ports=[{"port": 80}, port])
    assert reasons(value) == [reason]
    assert [item.port for item in value.ports] == [80]


def test_a_bad_node_port_costs_only_the_node_port() -> None:
    value = service(type="NodePort", ports=[{"port": 80, "nodePort": 70000}])
    assert reasons(value) == ["InvalidPort"]
    assert [(item.port, item.node_port) for item in value.ports] == [(80, 0)]


def test_one_number_may_serve_two_protocols() -> None:
    value = service(ports=[{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}])
    assert [item.name.protocol for item in value.ports] == [Protocol.TCP, Protocol.UDP]
    assert not value.problems


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "300.1.1.1", "word"])
def test_an_external_address_nobody_can_dial_is_a_problem(address: str) -> None:
    value = service(externalIPs=[address, "203.0.113.1", "2001:db8::1"])
    assert value.external_addresses == ("203.0.113.1",)
    assert reasons(value) == ["InvalidExternalIP"]


@pytest.mark.parametrize("value", [{}, {"metadata": {"name": "x"}}, {"metadata": None}])
def test_an_object_without_a_name_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(parse.InvalidObjectError):
        parse.service(value)
    with pytest.raises(parse.InvalidObjectError):
        parse.endpoint_slice(value)


def test_fields_of_the_wrong_type_do_not_stop_the_rest() -> None:
    value = service(
        ports="none", externalIPs={"a": 1}, loadBalancerSourceRanges=None, sessionAffinityConfig=[]
    )
    assert value.cluster_address == "10.152.183.5"
    assert value.ports == ()


# -- slices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        pytest.param({}, State.READY | State.SERVING, id="nothing said: ready"),
        pytest.param({"ready": None}, State.READY | State.SERVING, id="null is as nothing"),
        pytest.param({"ready": False}, State(0), id="not ready, so not serving"),
        pytest.param(
            {"ready": False, "serving": True, "terminating": True},
            State.SERVING | State.TERMINATING,
            id="draining",
        ),
    ],
)
def test_conditions_and_their_defaults(conditions: dict[str, Any], state: State) -> None:
    value = parse.endpoint_slice(slice_object({"addresses": ["10.1.0.5"], "conditions": conditions}))
    assert [item.state for item in value.endpoints] == [state]


def test_the_first_address_of_an_endpoint_counts() -> None:
    value = endpoint_slice({"addresses": ["10.1.0.5", "10.1.0.6"]})
    assert [item.address for item in value.endpoints] == ["10.1.0.5"]


def test_v1beta1_of_kubernetes_1_20_names_the_node_by_its_label() -> None:
    item = {
        "addresses": ["10.1.0.5"],
        "conditions": {"ready": True},
        "topology": {"kubernetes.io/hostname": "host1", "topology.kubernetes.io/zone": "east"},
    }
    value = parse.endpoint_slice({"apiVersion": "discovery.k8s.io/v1beta1", **slice_object(item)})
    assert [item.node for item in value.endpoints] == ["host1"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"addressType": "IPv6"}, id="IPv6"),
        pytest.param({"addressType": "FQDN"}, id="names"),
        pytest.param({"metadata": {"namespace": "default", "name": "web-1"}}, id="nobody's"),
        pytest.param(
            {
                "metadata": {
                    "namespace": "default",
                    "name": "web-1",
                    "labels": {"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""},
                }
            },
            id="a headless service's",
        ),
    ],
)
def test_slices_of_no_use_are_empty(changes: dict[str, Any]) -> None:
    value = parse.endpoint_slice({**slice_object(endpoint("10.1.0.5")), **changes})
    assert value.service == ""
    assert value.endpoints == ()


def test_bad_endpoints_are_one_problem_and_the_others_stay() -> None:
    value = endpoint_slice(endpoint("127.0.0.1"), endpoint("10.1.0.5"), endpoint("word"), {"addresses": []})
    assert [item.address for item in value.endpoints] == ["10.1.0.5"]
    assert reasons(value) == ["InvalidEndpoint"]
    assert "3 endpoints" in value.problems[0].message
    assert (value.problems[0].namespace, value.problems[0].name) == ("default", "web")


@pytest.mark.parametrize("number", [0, None, 70000, "http"])
def test_a_bad_slice_port_is_a_problem_and_the_others_stay(number: Any) -> None:
    value = endpoint_slice(ports=[{"name": "a", "port": number}, {"name": "b", "port": 81}])
    assert [(item.name.name, item.port) for item in value.ports] == [("b", 81)]
    assert reasons(value) == ["InvalidSlicePort"]


@pytest.mark.parametrize("field", ["ports", "endpoints"])
def test_placeholder_slices_are_no_problem(field: str) -> None:
    assert not parse.endpoint_slice({**slice_object(endpoint("10.1.0.5")), field: None}).problems


def test_the_type_is_kept() -> None:
    assert parse.service(service_object(type="NodePort")).type == "NodePort"
