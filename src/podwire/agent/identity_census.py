"""Who is who: endpoints of this node get their labels and numbers, those of other nodes are taken as
published. Pure; not thread-safe."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple, TypeVar

from podwire.agent.identity_allocator import Wanted
from podwire.agent.identity_objects import IdentityObject, NodeEndpointsObject, PodObject
from podwire.agent.identity_table import IdentityTable
from podwire.agent.identity_view import LocalEndpoint, NamedPorts, RemoteEndpoint, World
from podwire.agent.model import Endpoint, NodeInfo
from podwire.kube.reflector import Change
from podwire.policy import labels as security
from podwire.policy.identity import (
    HEALTH,
    HOST,
    KUBE_APISERVER,
    REMOTE_NODE,
    RESERVED,
    UNKNOWN,
    UNMANAGED,
    cidr_labels,
    is_label_identity,
    reserved_labels,
)
from podwire.policy.model import Labels

K = TypeVar("K")
V = TypeVar("V")
CidrIdentities = Mapping[IPv4Network, int]
CLAIM = 300.0
"""Seconds that a number may be used for after it was touched: much less than it may be idle."""
NO_PORTS: NamedPorts = frozenset()


@dataclass(slots=True)
class Delivered:
    """What is known completely."""

    namespaces: bool = False
    pods: bool = False
    identities: bool = False
    nodes: bool = False

    @property
    def all(self) -> bool:
        return self.namespaces and self.pods and self.identities and self.nodes


class Decisions(NamedTuple):
    """What follows from what is known."""

    identities: dict[str, tuple[int, Labels]]
    """Endpoint's key -> identity that it should have and has not."""
    wanted: dict[str, Wanted]
    """Canonical text -> labels that need a number."""


class Hosts(NamedTuple):
    """The cluster's nodes, this one by its addresses."""

    nodes: tuple[NodeInfo, ...] = ()
    own_addresses: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Labels:
    """Labels of a pod, and what they were worked out from."""

    pod: PodObject
    namespace: Labels
    labels: dict[str, str]
    text: str = field(default="")


class Census:
    """Takes objects as they come; the questions answer from what is known at that moment."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.delivered = Delivered()
        self.table = IdentityTable()
        self._pods: dict[str, PodObject] = {}
        self._namespaces: dict[str, Labels] = {}
        self._published: dict[str, NodeEndpointsObject] = {}
        self._local: dict[str, Endpoint] = {}
        self._claims: dict[int, float] = {}
        self._known_labels: dict[str, _Labels] = {}
        self.hosts = Hosts()
        self.api_servers: frozenset[str] = frozenset()

    # -- input -------------------------------------------------------------------------------------

    def take_namespaces(self, changes: Iterable[Change[Labels]], complete: bool) -> None:
        _update(self._namespaces, changes)
        self.delivered.namespaces |= complete

    def take_pods(self, changes: Iterable[Change[PodObject]], complete: bool) -> None:
        _update(self._pods, changes)
        self._known_labels = {key: item for key, item in self._known_labels.items() if key in self._pods}
        self.delivered.pods |= complete

    def take_identities(self, changes: Iterable[Change[IdentityObject]], complete: bool) -> None:
        self.table.apply(changes)
        self.delivered.identities |= complete

    def take_node_endpoints(self, changes: Iterable[Change[NodeEndpointsObject]], complete: bool) -> None:
        _update(self._published, changes)
        self.delivered.nodes |= complete

    def take_local(self, endpoints: Sequence[Endpoint]) -> None:
        """Take the endpoints that are here."""
        self._local = {endpoint.key: endpoint for endpoint in endpoints}

    def give(self, identities: Mapping[str, tuple[int, Labels]]) -> None:
        """Note what endpoints were given."""
        for key, (number, labels) in identities.items():
            self._local[key] = replace(self._local[key], identity=number, labels=labels)

    def claim(self, item: IdentityObject, now: float) -> None:
        """Learn that an identity was made or touched by this agent just now."""
        self.table.put(item)
        self._claims[item.number] = now + CLAIM

    # -- identities of this node's endpoints -------------------------------------------------------

    def decide(self, now: float) -> Decisions:
        """Which endpoint should be who. ``now``: seconds of a clock that never goes back."""
        decisions = Decisions({}, {})
        if not (self.delivered.identities and self.delivered.nodes):
            return decisions  # another number may be theirs already
        self._claims = {number: until for number, until in self._claims.items() if until > now}
        live = self.used() | self._claims.keys()
        here: set[str] = set()
        for key, endpoint in self._local.items():
            name = f"{endpoint.pod_namespace}/{endpoint.pod_name}"
            pod = self._pods.get(name)
            if endpoint.health or pod is None:
                continue
            here.add(name)
            if endpoint.pod_uid and pod.uids and endpoint.pod_uid not in pod.uids:
                continue  # an earlier or a later one of this name
            known = self._labels_of(name, pod)
            if known is None:
                continue
            number = self._number(known, live, endpoint, decisions)
            if number and (number, known.labels) != (endpoint.identity, endpoint.labels):
                decisions.identities[key] = (number, known.labels)
        for name, pod in self._pods.items():
            if name not in here and not pod.host_network and not pod.finished:
                known = self._labels_of(name, pod)  # its interface will be asked for soon
                if known is not None:
                    self._number(known, live, None, decisions)
        return decisions

    def _labels_of(self, name: str, pod: PodObject) -> _Labels | None:
        """None while the pod's namespace is not known."""
        namespace = self._namespaces.get(pod.namespace)
        if namespace is None:
            return None
        known = self._known_labels.get(name)
        if known is None or known.pod is not pod or known.namespace is not namespace:
            labels = security.pod_labels(pod.labels, pod.namespace, namespace, pod.service_account)
            known = _Labels(pod, namespace, labels, security.text(labels))
            self._known_labels[name] = known
        return known

    def _number(self, known: _Labels, live: set[int], endpoint: Endpoint | None, decisions: Decisions) -> int:
        """The number of these labels when it may be used at once, else 0 and it is asked for."""
        number = self.table.number_of(known.labels)
        if number in live and number:
            return number
        if not number and endpoint is not None and endpoint.labels == known.labels:
            number = endpoint.identity if is_label_identity(endpoint.identity) else 0
        decisions.wanted.setdefault(known.text, Wanted(known.labels, number))
        return 0

    # -- what others have or are told --------------------------------------------------------------

    def used(self) -> set[int]:
        """Numbers of every endpoint in the cluster, as far as it is published, and of this node's."""
        used = {item.identity for node in self._published.values() for item in node.endpoints}
        return used | {endpoint.identity for endpoint in self._local.values()}

    def idle(self) -> tuple[Sequence[IdentityObject], set[int]]:
        """All identities, and the numbers that are used or about to be."""
        wanted = {self.table.number_of(known.labels) for known in self._known_labels.values()}
        return self.table.objects(), self.used() | self._claims.keys() | wanted

    def own(self) -> NodeEndpointsObject | None:
        """What the API has of this node."""
        return self._published.get(self._node)

    def publication(self) -> list[RemoteEndpoint]:
        """This node's endpoints for others. Those without identity are left out: they are unmanaged."""
        found = (self._local_endpoint(endpoint) for endpoint in self._local.values())
        return [
            RemoteEndpoint(
                self._node, item.namespace, item.pod, item.address, item.identity, item.named_ports
            )
            for item in found
            if item.identity not in (UNKNOWN, UNMANAGED)
        ]

    def remote(self) -> dict[str, RemoteEndpoint]:
        """Endpoints of the other nodes, by address. Of two that claim an address, the one in its node's range
        has it."""
        ranges = {node.name: node.pod_cidr for node in self.hosts.nodes}
        here = {endpoint.address for endpoint in self._local.values()}
        found: dict[str, RemoteEndpoint] = {}
        for name in sorted(self._published.keys() & ranges.keys() - {self._node}):
            for item in self._published[name].endpoints:
                other = found.setdefault(item.address, item)
                if other is not item and not _lies_in(item.address, ranges[other.node]):
                    found[item.address] = item
        for address in here & found.keys():
            del found[address]
        return found

    def external_api_servers(self) -> frozenset[IPv4Network]:
        """API servers that are no nodes."""
        nodes = self.hosts.own_addresses.union(*(node.addresses for node in self.hosts.nodes))
        return frozenset(IPv4Network(address) for address in self.api_servers - nodes)

    # -- the view ----------------------------------------------------------------------------------

    def world(self, before: World, remote: Mapping[str, RemoteEndpoint], numbers: CidrIdentities) -> World:
        """What policies are worked out from; what did not change is the same object as ``before``.
        ``numbers``: CIDR identities of API servers outside the cluster."""
        local = {key: self._local_endpoint(endpoint) for key, endpoint in sorted(self._local.items())}
        here = bool(self.api_servers & self.hosts.own_addresses)
        identities: dict[int, Labels] = {number: RESERVED[number] for number in RESERVED if number != UNKNOWN}
        identities[HOST] = reserved_labels(HOST, api_server_here=here)
        identities.update(self.table.labels())
        for endpoint in local.values():  # what the API was not asked for, or has lost
            if is_label_identity(endpoint.identity):
                identities.setdefault(endpoint.identity, endpoint.labels)
        for prefix, number in numbers.items():
            identities[number] = cidr_labels(prefix, api_server=True)
        return World(
            _same(before.identities, identities),
            _same(before.named_ports, _named_ports([*local.values(), *remote.values()])),
            _same(before.local, local),
            before.remote if before.remote == remote else remote,
            _same(before.nodes, self._node_identities()),
            _same(before.api_servers, dict(numbers)),
            self.delivered.all,
        )

    def _node_identities(self) -> dict[str, int]:
        found = {
            address: KUBE_APISERVER if address in self.api_servers else REMOTE_NODE
            for node in self.hosts.nodes
            for address in node.addresses
        }
        return found | dict.fromkeys(self.hosts.own_addresses, HOST)

    def _local_endpoint(self, endpoint: Endpoint) -> LocalEndpoint:
        if endpoint.health:
            return LocalEndpoint(endpoint.key, "", "", endpoint.address, HEALTH, RESERVED[HEALTH], NO_PORTS)
        namespace, name = endpoint.pod_namespace, endpoint.pod_name
        pod = self._pods.get(f"{namespace}/{name}")
        ports = pod.named_ports if pod is not None else NO_PORTS
        labels = RESERVED.get(endpoint.identity, endpoint.labels)
        return LocalEndpoint(
            endpoint.key, namespace, name, endpoint.address, endpoint.identity, labels, ports
        )


def _named_ports(endpoints: Iterable[LocalEndpoint | RemoteEndpoint]) -> dict[int, NamedPorts]:
    found: defaultdict[int, set[tuple[str, int, int]]] = defaultdict(set)
    for endpoint in endpoints:
        if endpoint.named_ports:
            found[endpoint.identity] |= endpoint.named_ports
    return {number: frozenset(ports) for number, ports in found.items()}


def _update(known: dict[str, V], changes: Iterable[Change[V]]) -> None:
    for key, item in changes:
        if item is None:
            known.pop(key, None)
        else:
            known[key] = item


def _same(before: Mapping[K, V], after: Mapping[K, V]) -> Mapping[K, V]:
    return before if before == after else after


def _lies_in(address: str, network: str | None) -> bool:
    return network is not None and IPv4Address(address) in IPv4Network(network)
