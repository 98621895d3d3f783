"""Services and EndpointSlices as the Kubernetes API serves them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def service(name: str, address: str, *ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Service; ``ports`` as in the API, ``spec`` overrides what is usual."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"type": "ClusterIP", "clusterIP": address, "ports": list(ports), **spec},
        "status": {"loadBalancer": spec.pop("loadBalancer", {})},
    }


def port(number: int, target: int | None = None, **more: Any) -> dict[str, Any]:
    return {"port": number, "targetPort": target or number, "protocol": "TCP", **more}


def endpoint(address: str, node: str = "", **conditions: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"addresses": [address], "conditions": {"ready": True, **conditions}}
    return {**value, "nodeName": node} if node else value


def slice_of(
    name: str, endpoints: Iterable[dict[str, Any]], *ports: dict[str, Any], number: int = 1
) -> dict[str, Any]:
    """EndpointSlice ``number`` of the service ``name``; ``ports`` are {port, protocol, name}."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default",
            "name": f"{name}-{number}",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", **item} for item in ports],
        "endpoints": list(endpoints),
    }
