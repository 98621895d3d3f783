"""Values that services are computed with.

What exists once per endpoint (a cluster may have a hundred thousand) is a named tuple, the rest are
dataclasses. Addresses are IPv4 in dotted form, ports are in host order."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - a key of the table, nothing is bound to it
"""Address of a node port's frontend: any address of any node."""
AFFINITY_SECONDS = 10800
"""Kubernetes' default timeout of session affinity."""


class Protocol(enum.IntEnum):
    """IP protocol numbers of what a service can carry."""

    TCP = 6
    UDP = 17
    SCTP = 132


class Flags(enum.IntFlag):
    """Bits of a frontend in the datapath's table: what kind it is, and what holds for it."""

    CLUSTER_IP = 1
    NODE_PORT = 2
    EXTERNAL_IP = 4
    LOAD_BALANCER = 8
    HOST_PORT = 16
    EXTERNAL_LOCAL = 32
    """externalTrafficPolicy Local: clients from outside get local backends only, and keep their address."""
    INTERNAL_LOCAL = 64
    """internalTrafficPolicy Local: clients in the cluster get local backends only."""
    MAGLEV = 128
    """Clients from outside get their backend from the list's Maglev table."""
    SOURCE_RANGES = 256
    """Only clients in the service's source ranges are served."""


KINDS = Flags.CLUSTER_IP | Flags.NODE_PORT | Flags.EXTERNAL_IP | Flags.LOAD_BALANCER | Flags.HOST_PORT


class State(enum.IntFlag):
    """Conditions of an endpoint, with the API's defaults filled in."""

    READY = 1
    SERVING = 2
    TERMINATING = 4


class Name(NamedTuple):
    """Name of a namespaced object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Backend(NamedTuple):
    """Where a frontend's packets may go."""

    address: str
    port: int


class FrontendKey(NamedTuple):
    """What clients dial. ``address`` is ANY_ADDRESS for a node port."""

    address: str
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{self.address}:{self.port}/{self.protocol.name}"


class PortName(NamedTuple):
    """What a service port and the ports of slices are matched by."""

    name: str
    protocol: Protocol


class Endpoint(NamedTuple):
    """One endpoint of a slice."""

    address: str
    node: str
    """Name of its node, empty when the slice does not say."""
    state: State
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class SlicePort(NamedTuple):
    """One port of a slice: the number its endpoints listen on."""

    name: PortName
    port: int


class HostPort(NamedTuple):
    """A container port that a pod of this node wants on the node's own addresses."""

    host_address: str
    """Empty for every address of the node."""
    port: int
    protocol: Protocol
    backend: Backend


@dataclass(frozen=True, slots=True)
class Problem:
    """Bad input, or input that does not fit. Everything it does not name keeps working."""

    namespace: str
    name: str
    reason: str
    """One CamelCase word, as Events have it."""
    message: str
    """Cause and way out."""
    kind: str = "Service"
    """Kind of the object: Service, or Pod for a host port."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a service. A port of 0 (or out of range) never gets here: it is a problem."""

    name: PortName
    port: int
    node_port: int = 0
    """0 for none."""
    target: str = ""
    """targetPort as written; shown only, the slices carry the numbers."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the API says of one service, checked."""

    name: Name
    uid: str = ""
    created: str = ""
    """creationTimestamp; such texts sort by time."""
    type: str = "ClusterIP"
    unhandled: str = ""
    """Why podwire makes no frontend for it (headless, ExternalName, another proxy's), empty when it does."""
    cluster_address: str = ""
    ports: tuple[ServicePort, ...] = ()
    external_addresses: tuple[str, ...] = ()
    load_balancer_addresses: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] | None = None
    """IPv4 networks whose clients the load balancer's addresses serve; None for no restriction."""
    affinity_seconds: int = 0
    """0 without session affinity."""
    external_local: bool = False
    internal_local: bool = False
    publish_not_ready: bool = False
    health_check_port: int = 0
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """What the API says of one EndpointSlice, checked."""

    name: Name
    service: str
    """Name of its service, in the same namespace; empty when podwire has no use for the slice."""
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    problems: tuple[Problem, ...] = ()
    """They name the slice in their message and the service as their object."""


@dataclass(frozen=True, slots=True)
class NodeContext:
    """What a service's meaning depends on besides its own objects."""

    node_name: str
    addresses: frozenset[str] = frozenset()
    """This node's own addresses."""
    node_addresses: frozenset[str] = frozenset()
    """Addresses of every node of the cluster."""
    service_cidrs: tuple[str, ...] = ()
    """Ranges that the API server takes ClusterIPs from."""
    node_port_min: int = 30000
    node_port_max: int = 32767
    zone: str = ""
    """Label topology.kubernetes.io/zone of this node."""
    hostname: str = ""
    """Label kubernetes.io/hostname of this node; slices of v1beta1 name nodes by it."""
    maglev: bool = False
    """Choose backends by Maglev tables for clients from outside."""


@dataclass(frozen=True, slots=True)
class Frontend:
    """A frontend as the datapath's table has it."""

    service: int
    """Number of the service port: the key of affinity and source ranges."""
    list: int
    """Backends for clients in the cluster; 0 when there are none."""
    count: int
    external_list: int
    """Backends for clients from outside; 0 when there are none. A ClusterIP has no such clients."""
    external_count: int
    affinity_seconds: int
    flags: Flags


@dataclass(frozen=True, slots=True)
class BackendList:
    """Backends in the order of their index; never changed, a change makes a new list."""

    backends: tuple[Backend, ...]
    maglev: bool = False
    """The list needs a Maglev table (``maglev.table``)."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What a health-check node port answers."""

    service: Name
    local_endpoints: int
    """Ready endpoints on this node: 0 makes load balancers look elsewhere."""
