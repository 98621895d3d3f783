"""What policies mean, said as plainly as possible: one packet at a time, every rule read anew.

Written from the semantics alone, without the engine's code. Slow on purpose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from podwire.policy.model import (
    Block,
    Cidr,
    Direction,
    Endpoints,
    Enforcement,
    Entity,
    Entry,
    Operator,
    Peer,
    PortRange,
    Rule,
    Selector,
    Service,
)

ALLOWED = 0
POLICY_DENIED = 133
POLICY_DENY = 181


@dataclass(frozen=True)
class Party:
    """One end of a connection."""

    address: IPv4Address
    labels: Mapping[str, str]
    """Of the outside world: ``reserved:world``."""
    named_ports: frozenset[tuple[str, int, int]] = frozenset()


@dataclass(frozen=True)
class KubernetesService:
    """A service object and its endpoints."""

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    selector: Mapping[str, str] = field(default_factory=dict)
    addresses: frozenset[IPv4Address] = frozenset()


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection, as one side's policy sees it."""

    direction: Direction
    subject: Party
    """Whose policy it is: the receiver on ingress, the sender on egress."""
    peer: Party
    protocol: int
    port: int
    """Destination port; ICMP: type."""


def judge(
    packet: Packet,
    rules: Iterable[Rule],
    enforcement: Enforcement = Enforcement.DEFAULT,
    services: Iterable[KubernetesService] = (),
) -> int:
    """Return ALLOWED or the reason of the drop."""
    if enforcement is Enforcement.NEVER:
        return ALLOWED
    selecting = [rule for rule in rules if selects(rule.subject, packet.subject.labels)]
    entries = [
        entry
        for rule in selecting
        for entry in rule.entries
        if entry.direction is packet.direction and applies(entry, packet, tuple(services))
    ]
    if any(entry.deny for entry in entries):
        return POLICY_DENY
    if entries:
        return ALLOWED
    closed = (
        enforcement is Enforcement.ALWAYS
        or "reserved:init" in packet.subject.labels
        or any(packet.direction in rule.default_deny for rule in selecting)
    )
    if not closed:
        return ALLOWED
    if packet.direction is Direction.INGRESS and "reserved:host" in packet.peer.labels:
        return ALLOWED
    return POLICY_DENIED


def applies(entry: Entry, packet: Packet, services: tuple[KubernetesService, ...]) -> bool:
    """Tell whether an entry is about this peer and this port."""
    about_peer = entry.peers is None or any(is_meant(peer, packet.peer, services) for peer in entry.peers)
    if not about_peer:
        return False
    if entry.ports is None:
        return True
    for port in entry.ports:
        if isinstance(port, PortRange):
            about_port = port.first <= packet.port <= port.last
        else:
            about_port = (port.name, packet.protocol, packet.port) in names_for(entry, packet, services)
        if about_port and port.protocol == packet.protocol:
            return True
    return False


def names_for(
    entry: Entry, packet: Packet, services: tuple[KubernetesService, ...]
) -> frozenset[tuple[str, int, int]]:
    """Return the named ports that count: the destination's, if it is a pod that a rule means as such."""
    if packet.direction is Direction.INGRESS:
        return packet.subject.named_ports
    by_address_only = entry.peers is not None and not any(
        not isinstance(peer, Block) and is_meant(peer, packet.peer, services) for peer in entry.peers
    )
    return frozenset() if by_address_only else packet.peer.named_ports


def is_meant(peer: Peer, party: Party, services: tuple[KubernetesService, ...]) -> bool:
    """Tell whether a rule's peer is this party."""
    outside = "reserved:world" in party.labels
    if isinstance(peer, Endpoints):
        return selects(peer.selector, party.labels)
    if isinstance(peer, Entity):
        return is_entity(peer.name, party.labels)
    if isinstance(peer, Cidr):
        return outside and in_prefix(peer.prefix, peer.excepted, party.address)
    if isinstance(peer, Block):
        return in_prefix(peer.prefix, peer.excepted, party.address)
    return any(is_backend(service, party, outside) for service in services if is_service(peer, service))


def is_service(peer: Service, service: KubernetesService) -> bool:
    """Tell whether toServices names this service."""
    if peer.namespace and peer.namespace != service.namespace:
        return False
    if peer.name:
        return peer.name == service.name
    return peer.selector is not None and selects(peer.selector, service.labels)


def is_backend(service: KubernetesService, party: Party, outside: bool) -> bool:
    """Tell whether a service leads to this party."""
    if not service.selector:
        return outside and party.address in service.addresses
    if party.labels.get("k8s:io.kubernetes.pod.namespace") != service.namespace:
        return False
    return all(party.labels.get(f"k8s:{key}") == value for key, value in service.selector.items())


def is_entity(name: str, labels: Mapping[str, str]) -> bool:
    """Tell whether the owner of ``labels`` belongs to an entity."""
    if name == "all":
        return True
    if name == "none":
        return False
    if name == "cluster":
        inside = ("host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver")
        if any(f"reserved:{single}" in labels for single in inside):
            return True
        return labels.get("k8s:io.cilium.k8s.policy.cluster") == "default"
    return f"reserved:{name}" in labels


def in_prefix(prefix: IPv4Network, excepted: tuple[IPv4Network, ...], address: IPv4Address) -> bool:
    """Tell whether an address lies in a prefix and in no exception."""
    return address in prefix and not any(address in one for one in excepted)


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Tell whether all requirements hold."""
    for requirement in selector.requirements:
        source, _, key = requirement.key.partition(":")
        values = [
            value
            for label, value in labels.items()
            if label.partition(":")[2] == key and source in ("any", label.partition(":")[0])
        ]
        holds = {
            Operator.IN: any(value in requirement.values for value in values),
            Operator.NOT_IN: not any(value in requirement.values for value in values),
            Operator.EXISTS: bool(values),
            Operator.DOES_NOT_EXIST: not values,
        }
        if not holds[requirement.operator]:
            return False
    return True
