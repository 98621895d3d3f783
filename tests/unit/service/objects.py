"""Objects as the Kubernetes API has them, for the tests of services."""

from __future__ import annotations

from typing import Any

from podwire.service import parse
from podwire.service.model import NodeContext, Service, Slice

HERE, THERE = "node1", "node2"
CONTEXT = NodeContext(
    HERE,
    addresses=frozenset({"192.0.2.1"}),
    node_addresses=frozenset({"192.0.2.1", "192.0.2.2"}),
    service_cidrs=("10.152.183.0/24",),
    zone="east",
    hostname="host1",
)


def service_object(
    name: str = "web", *, status: Any = None, labels: Any = None, **spec: Any
) -> dict[str, Any]:
    """A ClusterIP service with one port, changed by ``spec``; a field given as None is left out."""
    default = {"type": "ClusterIP", "clusterIP": "10.152.183.5", "ports": [{"port": 80, "targetPort": 8080}]}
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": labels or {},
        },
        "spec": {key: value for key, value in {**default, **spec}.items() if value is not None},
        "status": status or {},
    }


def slice_object(
    *endpoints: dict[str, Any], name: str = "web-1", service: str = "web", ports: Any = None, **more: Any
) -> dict[str, Any]:
    """A slice of discovery.k8s.io/v1."""
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}] if ports is None else ports,
        "endpoints": list(endpoints),
        **more,
    }


def endpoint(address: str, node: str | None = HERE, *, zones: Any = (), **conditions: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"addresses": [address], "conditions": conditions}
    if node is not None:
        value["nodeName"] = node
    if zones:
        value["hints"] = {"forZones": [{"name": zone} for zone in zones]}
    return value


def service(name: str = "web", **spec: Any) -> Service:
    return parse.service(service_object(name, **spec))


def endpoint_slice(*endpoints: dict[str, Any], **more: Any) -> Slice:
    return parse.endpoint_slice(slice_object(*endpoints, **more))
