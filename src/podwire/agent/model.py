"""Values the agent computes with. No I/O here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import NamedTuple

from podwire.net.values import NetnsId

HEALTH_CONTAINER_ID = "podwire-health"
"""Container id of the node's own health endpoint; no runtime uses such an id."""
HEALTH_ANNOTATION = "podwire.io/health-address"
HOST_PREFIX = "lxc"
"""Name prefix of the host side of every pod's veth pair."""


class PortMapping(NamedTuple):
    """A port of this node that leads to a pod."""

    host_address: str
    """Empty for every address of the node."""
    host_port: int
    container_port: int
    protocol: str
    """TCP, UDP or SCTP."""


class PolicyAssignment(NamedTuple):
    """Which policy map an endpoint is judged by."""

    number: int
    """Index into podwire_policies. 0: none, everything passes. 1: closed."""
    audit: bool = False
    """Say what would be refused, and let it pass."""


OPEN = PolicyAssignment(0)
CLOSED = PolicyAssignment(1)


class Standing(NamedTuple):
    """As whom a local endpoint sends, and what judges it."""

    identity: int
    policy: PolicyAssignment = OPEN


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One pod interface on this node."""

    container_id: str
    ifname: str
    netns: str
    netns_id: NetnsId
    address: str
    """IPv4 address, without prefix length (always /32)."""
    mac: str
    host_ifname: str
    host_ifindex: int
    slot: int
    """Index into the datapath's revision slots; at least 1."""
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    created: float = 0.0
    """Seconds since the epoch."""
    port_mappings: tuple[PortMapping, ...] = ()
    identity: int = 0
    """Last known security identity; 0 = none yet."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Security labels that the identity stands for."""

    @property
    def key(self) -> str:
        return endpoint_key(self.container_id, self.ifname)

    @property
    def health(self) -> bool:
        return self.container_id == HEALTH_CONTAINER_ID


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the agent needs to know of a node of the cluster."""

    name: str
    pod_cidr: str | None = None
    addresses: tuple[str, ...] = ()
    """IPv4 addresses of the node, the one to route through first."""
    health_address: str | None = None
    uid: str = ""
    zone: str = ""
    """Label topology.kubernetes.io/zone."""
    hostname: str = ""
    """Label kubernetes.io/hostname: what slices of discovery.k8s.io/v1beta1 name nodes by."""


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything the desired state of this node's kernel is computed from."""

    node_ip: str
    """Address of this node that its peers route through."""
    node_ifindexes: tuple[int, ...]
    """Devices of this node; the first carries ``node_ip``."""
    host_addresses: tuple[str, ...]
    """Every IPv4 address of this node."""
    node_name: str
    cluster_cidrs: tuple[str, ...]
    service_cidrs: tuple[str, ...]
    """Ranges that the host's stack translates."""
    non_masquerade_cidrs: tuple[str, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    endpoints: tuple[Endpoint, ...] = field(default=())
    masquerade_addresses: Mapping[int, str] = field(default_factory=dict)
    """Interface index -> address that pods' packets leave it with, where that is not ``node_ip``."""
    standings: Mapping[str, Standing] = field(default_factory=dict)
    """Endpoint's key -> as whom it sends and what judges it. Absent: its last known identity, no policy."""
    remote: Mapping[str, int] | None = field(default_factory=dict)
    """Address of another node's endpoint -> identity; None = not known yet."""
    cidrs: Mapping[IPv4Network, int] | None = field(default_factory=dict)
    """Prefix outside the cluster -> identity; None = not known yet."""
    api_servers: frozenset[str] = frozenset()
    """Addresses where the Kubernetes API answers."""


def endpoint_key(container_id: str, ifname: str) -> str:
    """Name of an attachment; also its file name in the state directory."""
    return f"{container_id}-{ifname}"


def host_ifname(container_id: str, ifname: str) -> str:
    """Name of the host side of the veth pair: at most 15 characters, the same every time for one
    attachment."""
    digest = hashlib.sha256(endpoint_key(container_id, ifname).encode()).hexdigest()
    return HOST_PREFIX + digest[:12]


def pod_mac(container_id: str, ifname: str) -> str:
    """Locally administered unicast MAC address of a pod interface, the same every time for one attachment."""
    digest = hashlib.sha256(b"mac " + endpoint_key(container_id, ifname).encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))
