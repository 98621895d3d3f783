"""Read Services and EndpointSlices of the Kubernetes API (1.20 to current). Pure.

What makes no sense is left out and becomes a problem of the service; the rest of the object counts."""

from __future__ import annotations

import functools
import ipaddress
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from podwire.service.model import (
    AFFINITY_SECONDS,
    Endpoint,
    Name,
    PortName,
    Problem,
    Protocol,
    Service,
    ServicePort,
    Slice,
    SlicePort,
    State,
)

PROXY_NAME = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
SERVICE_NAME = "kubernetes.io/service-name"
HOSTNAME = "kubernetes.io/hostname"
LONGEST_AFFINITY = 86400
_LAST_PORT = 65535
_LINK_LOCAL = bytes((169, 254))
_STATES = tuple(State(bits) for bits in range(8))
Object = Mapping[str, Any]


class InvalidObjectError(ValueError):
    """An object without namespace or name: there is nothing a problem could be reported for."""


# -- services --------------------------------------------------------------------------------------


def service(value: Object) -> Service:
    """The service an API object stands for. Raises InvalidObjectError."""
    metadata, spec = _mapping(value, "metadata"), _mapping(value, "spec")
    name = _name(metadata)
    problems: list[Problem] = []
    kind = str(spec.get("type") or "ClusterIP")
    unhandled = _unhandled(metadata, spec, kind)
    ports = _ports(name, spec, problems)
    if unhandled:
        return Service(
            name, str(metadata.get("uid", "")), str(metadata.get("creationTimestamp") or ""), kind, unhandled,
            ports=ports, problems=tuple(problems),
        )  # fmt: skip
    external_local = spec.get("externalTrafficPolicy") == "Local"
    load_balancer = kind == "LoadBalancer"
    return Service(
        name,
        str(metadata.get("uid", "")),
        str(metadata.get("creationTimestamp") or ""),
        sys.intern(kind),
        cluster_address=_cluster_address(spec),
        ports=ports,
        external_addresses=_external_addresses(name, spec, problems),
        load_balancer_addresses=_load_balancer_addresses(name, value, problems) if load_balancer else (),
        source_ranges=_source_ranges(name, spec, problems) if load_balancer else None,
        affinity_seconds=_affinity_seconds(name, spec, problems),
        external_local=external_local,
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
        health_check_port=_health_check_port(name, spec, problems) if load_balancer and external_local else 0,
        problems=tuple(problems),
    )


def _unhandled(metadata: Object, spec: Object, kind: str) -> str:
    labels = _mapping(metadata, "labels")
    if PROXY_NAME in labels:
        return f"left to the proxy {labels[PROXY_NAME]!r} (label {PROXY_NAME})"
    if kind == "ExternalName":
        return f"ExternalName: DNS answers with {spec.get('externalName') or 'its name'}"
    if spec.get("clusterIP") == "None" or HEADLESS in labels:
        return "headless: DNS answers with the endpoints' own addresses"
    if not _cluster_address(spec):
        given = ", ".join(_cluster_addresses(spec))
        return f"no IPv4 ClusterIP (it has {given})" if given else "no ClusterIP yet"
    return ""


def _cluster_addresses(spec: Object) -> list[str]:
    given = [*_items(spec, "clusterIPs"), spec.get("clusterIP")]
    return list(dict.fromkeys(str(address) for address in given if address))


def _cluster_address(spec: Object) -> str:
    return next((address for address in _cluster_addresses(spec) if _is_usable(address)), "")


def _ports(name: Name, spec: Object, problems: list[Problem]) -> tuple[ServicePort, ...]:
    ports: list[ServicePort] = []
    for item in _objects(spec, "ports"):
        label = str(item.get("name") or "")
        where = f"port {label!r}" if label else f"port {item.get('port')}"
        protocol = _protocol(item.get("protocol"))
        if protocol is None:
            supported = ", ".join(known.name for known in Protocol)
            _problem(
                problems, name, "UnknownProtocol",
                f"{where} has protocol {item.get('protocol')!r}: ignored; use one of {supported}",
            )  # fmt: skip
            continue
        number, node_port = _port(item.get("port")), _port(item.get("nodePort") or 0)
        if not number:
            _problem(
                problems, name, "InvalidPort",
                f"{where} has port number {item.get('port')!r}: ignored; give it one from 1 to {_LAST_PORT}",
            )  # fmt: skip
            continue
        if node_port is None:
            _problem(
                problems, name, "InvalidPort",
                f"{where} has nodePort {item.get('nodePort')!r}: ignored; let Kubernetes choose one",
            )  # fmt: skip
        if any(other.port == number and other.name.protocol == protocol for other in ports) or any(
            other.name == (label, protocol) for other in ports
        ):
            _problem(
                problems, name, "DuplicatePort",
                f"{where} repeats an earlier port's number or name for {protocol.name}: ignored; "
                "remove one of them",
            )  # fmt: skip
            continue
        target = item.get("targetPort")
        ports.append(
            ServicePort(
                _port_name(label, protocol), number, node_port or 0, "" if target is None else str(target)
            )
        )
    return tuple(ports)


def _external_addresses(name: Name, spec: Object, problems: list[Problem]) -> tuple[str, ...]:
    found = dict.fromkeys(str(item) for item in _items(spec, "externalIPs"))
    for address in found:
        if not _is_usable(address) and not _is_ipv6(address):
            _problem(
                problems, name, "InvalidExternalIP",
                f"externalIPs has {address!r}, which no client can dial: ignored; remove it",
            )  # fmt: skip
    return tuple(filter(_is_usable, found))


def _load_balancer_addresses(name: Name, value: Object, problems: list[Problem]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for item in _objects(_mapping(_mapping(value, "status"), "loadBalancer"), "ingress"):
        address = str(item.get("ip") or "")
        # With ipMode Proxy packets must reach the load balancer itself.
        if not address or _is_ipv6(address) or item.get("ipMode", "VIP") == "Proxy":
            continue
        if _is_usable(address):
            found[address] = None
        else:
            _problem(
                problems, name, "InvalidLoadBalancerIP",
                f"status.loadBalancer has {address!r}, which no client can dial: ignored; "
                "see the load balancer's controller",
            )  # fmt: skip
    return tuple(found)


def _source_ranges(name: Name, spec: Object, problems: list[Problem]) -> tuple[str, ...] | None:
    given = [str(item).strip() for item in _items(spec, "loadBalancerSourceRanges")]
    if not given:
        return None
    ranges: dict[str, None] = {}
    invalid = []
    for text in given:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            invalid.append(text)
            continue
        if network.version == 4:
            ranges[str(network)] = None
    if invalid:
        _problem(
            problems, name, "InvalidSourceRange",
            f"loadBalancerSourceRanges has {', '.join(invalid)}: ignored; write networks as 192.0.2.0/24",
        )  # fmt: skip
    if not ranges:
        # Open to everybody would be the opposite of what was asked for.
        _problem(
            problems, name, "NoSourceRange",
            "loadBalancerSourceRanges has no IPv4 network, so the load balancer's addresses serve nobody; "
            "add one (0.0.0.0/0 for everybody) or remove the field",
        )  # fmt: skip
    return tuple(ranges)


def _affinity_seconds(name: Name, spec: Object, problems: list[Problem]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    seconds = _mapping(_mapping(spec, "sessionAffinityConfig"), "clientIP").get("timeoutSeconds")
    if seconds is None:
        return AFFINITY_SECONDS
    if isinstance(seconds, int) and 1 <= seconds <= LONGEST_AFFINITY:
        return seconds
    _problem(
        problems, name, "InvalidAffinityTimeout",
        f"timeoutSeconds of the session affinity is {seconds!r}: {AFFINITY_SECONDS} is used; "
        f"give it from 1 to {LONGEST_AFFINITY}",
    )  # fmt: skip
    return AFFINITY_SECONDS


def _health_check_port(name: Name, spec: Object, problems: list[Problem]) -> int:
    given = spec.get("healthCheckNodePort") or 0
    number = _port(given)
    if number is None:
        _problem(
            problems, name, "InvalidPort",
            f"healthCheckNodePort is {given!r}: ignored; let Kubernetes choose one",
        )  # fmt: skip
    return number or 0


# -- slices ----------------------------------------------------------------------------------------


def endpoint_slice(value: Object) -> Slice:
    """The slice an API object of discovery.k8s.io/v1 or v1beta1 stands for. Raises InvalidObjectError.

    One that podwire has no use for (IPv6, names, headless services', nobody's) comes without endpoints and
    with an empty ``service``."""
    metadata = _mapping(value, "metadata")
    name = _name(metadata)
    labels = _mapping(metadata, "labels")
    service_name = str(labels.get(SERVICE_NAME) or "")
    if not service_name or value.get("addressType") != "IPv4" or HEADLESS in labels or PROXY_NAME in labels:
        return Slice(name, "")
    problems: list[Problem] = []
    owner = Name(name.namespace, service_name)
    ports = tuple(_slice_ports(name, owner, value, problems))
    invalid: list[str] = []
    endpoints = tuple(_endpoints(value, invalid))
    if invalid:
        _problem(
            problems, owner, "InvalidEndpoint",
            f"EndpointSlice {name.name} has {len(invalid)} endpoints that no packet can be sent to "
            f"({', '.join(sorted(invalid)[:3])}): ignored; correct their addresses",
        )  # fmt: skip
    return Slice(name, sys.intern(service_name), ports, endpoints, tuple(problems))


def _slice_ports(name: Name, owner: Name, value: Object, problems: list[Problem]) -> Iterator[SlicePort]:
    for item in _objects(value, "ports"):
        label, protocol = str(item.get("name") or ""), _protocol(item.get("protocol"))
        number = _port(item.get("port"))
        if protocol is not None and number:
            yield SlicePort(_port_name(label, protocol), number)
        else:
            _problem(
                problems, owner, "InvalidSlicePort",
                f"EndpointSlice {name.name} has port {label!r} with number {item.get('port')!r} and protocol "
                f"{item.get('protocol') or 'TCP'}: ignored; give it a number from 1 to {_LAST_PORT}",
            )  # fmt: skip


def _endpoints(value: Object, invalid: list[str]) -> Iterator[Endpoint]:
    for item in _objects(value, "endpoints"):
        addresses = _items(item, "addresses")
        # The addresses of one endpoint are interchangeable; Kubernetes itself uses the first.
        address = str(addresses[0]) if addresses else "no address"
        if not _is_usable(address):
            invalid.append(address)
            continue
        # v1beta1 of Kubernetes 1.20 tells the node by its label.
        node = item.get("nodeName") or _mapping(item, "topology").get(HOSTNAME) or ""
        hints = _mapping(item, "hints")
        yield Endpoint(
            address,
            sys.intern(str(node)),
            _state(_mapping(item, "conditions")),
            _hints(hints, "forZones"),
            _hints(hints, "forNodes"),
        )


def _state(conditions: Object) -> State:
    """Conditions that are not given: ready, serving as ready, not terminating."""
    ready = conditions.get("ready")
    ready = True if ready is None else bool(ready)
    serving = conditions.get("serving")
    serving = ready if serving is None else bool(serving)
    return _STATES[ready | serving << 1 | bool(conditions.get("terminating")) << 2]


def _hints(hints: Object, key: str) -> tuple[str, ...]:
    return tuple(sys.intern(str(item.get("name"))) for item in _objects(hints, key)) if hints else ()


# -- parts -----------------------------------------------------------------------------------------


def _problem(problems: list[Problem], name: Name, reason: str, message: str) -> None:
    problems.append(Problem(name.namespace, name.name, reason, message))


def _name(metadata: Object) -> Name:
    namespace, name = metadata.get("namespace"), metadata.get("name")
    if not namespace or not name:
        raise InvalidObjectError(f"an object without namespace or name: {dict(metadata)!r:.200}")
    return Name(sys.intern(str(namespace)), str(name))


@functools.lru_cache(maxsize=4096)
def _port_name(name: str, protocol: Protocol) -> PortName:
    """Shared: most services of a cluster use the same few."""
    return PortName(name, protocol)


def _protocol(value: Any) -> Protocol | None:
    return Protocol.__members__.get(str(value or "TCP"))


def _port(value: Any) -> int | None:
    """A number from 0 to 65535, None for anything else."""
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_PORT
    return value if valid else None


def _is_usable(address: str) -> bool:
    """Is it an IPv4 address that one host can have and others can reach?"""
    try:
        # Several times as fast as ipaddress, and there may be a hundred thousand endpoints.
        packed = socket.inet_pton(socket.AF_INET, address)
    except (OSError, ValueError):
        return False
    first = packed[0]
    return first not in (0, 127) and first < 224 and packed[:2] != _LINK_LOCAL


def _is_ipv6(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 6
    except ValueError:
        return False


def _mapping(value: Object, key: str) -> Object:
    item = value.get(key)
    return item if isinstance(item, Mapping) else {}


def _items(value: Object, key: str) -> list[Any]:
    item = value.get(key)
    return item if isinstance(item, list) else []


def _objects(value: Object, key: str) -> Iterator[Object]:
    return (item for item in _items(value, key) if isinstance(item, Mapping))
