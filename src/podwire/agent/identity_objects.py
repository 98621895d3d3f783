"""Objects of the Kubernetes API that identities are made from, and those that tell of them. Pure.

Parsing never raises for what an API server accepts: what makes no sense counts as absent."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from podwire.agent.identity_view import NamedPorts, RemoteEndpoint
from podwire.policy.model import PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Labels

API = "/apis/podwire.io/v1"
API_VERSION = "podwire.io/v1"
IDENTITIES = f"{API}/identities"
NODE_ENDPOINTS = f"{API}/nodeendpoints"
NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
USED_ANNOTATION = "podwire.io/used"
"""When somebody last began to use an identity that nobody used."""

_STATIC_UID = ("kubernetes.io/config.hash", "kubernetes.io/config.mirror")
"""Annotations of a static pod's mirror: kubelet gives the runtime this one for the pod's uid."""
_PROTOCOLS = {"TCP": PROTOCOL_TCP, "UDP": PROTOCOL_UDP, "SCTP": PROTOCOL_SCTP}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}


class PodObject(NamedTuple):
    """What identities need of a Pod."""

    namespace: str
    name: str
    uids: frozenset[str]
    """What a runtime may call it: its uid, and for a static pod that of its file."""
    labels: Mapping[str, str]
    service_account: str
    named_ports: NamedPorts
    host_network: bool
    """It has no interface of its own: it is the node."""
    finished: bool = False


class IdentityObject(NamedTuple):
    """A number and the labels that it stands for."""

    number: int
    labels: Labels
    version: str = ""
    """Resource version."""


class NodeEndpointsObject(NamedTuple):
    """The endpoints that a node's agent publishes."""

    node: str
    endpoints: tuple[RemoteEndpoint, ...]
    version: str = ""
    """Resource version."""


def pod(value: Mapping[str, Any]) -> PodObject:
    """Read a Pod."""
    metadata, spec = value.get("metadata") or {}, value.get("spec") or {}
    annotations = metadata.get("annotations") or {}
    uids = (metadata.get("uid"), *(annotations.get(name) for name in _STATIC_UID))
    return PodObject(
        str(metadata.get("namespace", "")),
        str(metadata.get("name", "")),
        frozenset(str(uid) for uid in uids if uid),
        _texts(metadata.get("labels")),
        str(spec.get("serviceAccountName") or "default"),
        _container_ports(spec),
        spec.get("hostNetwork") is True,
        (value.get("status") or {}).get("phase") in ("Succeeded", "Failed"),
    )


def namespace(value: Mapping[str, Any]) -> Labels:
    """The labels of a Namespace."""
    return _texts((value.get("metadata") or {}).get("labels"))


def identity(value: Mapping[str, Any]) -> IdentityObject:
    """Read an Identity; number 0 when its name is none."""
    metadata, spec = value.get("metadata") or {}, value.get("spec") or {}
    name = str(metadata.get("name", ""))
    number = int(name) if name.isascii() and name.isdigit() else 0
    return IdentityObject(number, _texts(spec.get("labels")), str(metadata.get("resourceVersion") or ""))


def identity_body(number: int, labels: Labels) -> dict[str, Any]:
    """An Identity to create."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Identity",
        "metadata": {"name": str(number)},
        "spec": {"labels": dict(sorted(labels.items()))},
    }


def node_endpoints(value: Mapping[str, Any]) -> NodeEndpointsObject:
    """Read a NodeEndpoints."""
    metadata, spec = value.get("metadata") or {}, value.get("spec") or {}
    node = str(metadata.get("name", ""))
    items = spec.get("endpoints")
    found = (_endpoint(node, item) for item in (items if isinstance(items, list) else ()))
    return NodeEndpointsObject(
        node, tuple(item for item in found if item), str(metadata.get("resourceVersion") or "")
    )


def endpoint_body(endpoint: RemoteEndpoint) -> dict[str, Any]:
    """An item of ``spec.endpoints``; undone by ``node_endpoints``."""
    return {
        "address": endpoint.address,
        "identity": endpoint.identity,
        "namespace": endpoint.namespace,
        "pod": endpoint.pod,
        "ports": [
            {"name": name, "port": port, "protocol": _NAMES[protocol]}
            for name, protocol, port in sorted(endpoint.named_ports)
        ],
    }


def _endpoint(node: str, item: Any) -> RemoteEndpoint | None:
    try:
        address = str(ipaddress.IPv4Address(item["address"]))
        number = item["identity"]
        if not isinstance(number, int) or not 0 < number < 1 << 32:
            return None
        ports = _ports(item.get("ports") or (), "port")
        return RemoteEndpoint(
            node, str(item.get("namespace", "")), str(item.get("pod", "")), address, number, ports
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _container_ports(spec: Mapping[str, Any]) -> NamedPorts:
    """Those of containers that run beside each other: an init container that starts anew is one of them."""
    containers = [
        *(spec.get("containers") or ()),
        *(item for item in spec.get("initContainers") or () if item.get("restartPolicy") == "Always"),
    ]
    return _ports((port for item in containers for port in item.get("ports") or ()), "containerPort")


def _ports(items: Iterable[Any], field: str) -> NamedPorts:
    found = set()
    for item in items:
        name, number = item.get("name"), item.get(field)
        protocol = _PROTOCOLS.get(item.get("protocol") or "TCP")
        if isinstance(name, str) and name and protocol and isinstance(number, int) and 0 < number < 65536:
            found.add((name.lower(), protocol, number))
    return frozenset(found)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): str(item) for name, item in value.items() if item is not None}
