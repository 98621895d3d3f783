"""Whom rules can mean: identities with their labels, prefixes, named ports, and services."""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from weakref import WeakValueDictionary

from podwire.policy.cidr import EVERYWHERE, CidrIndex, covering, interval
from podwire.policy.identity import CLASS_FIRST, CLASS_LAST, RESERVED, UNKNOWN, WORLD, cidr_labels
from podwire.policy.label_index import LabelIndex, bit_positions
from podwire.policy.labels import CLUSTER_KEY, DEFAULT_CLUSTER, K8S, NAMESPACE_KEY, key
from podwire.policy.model import Cidr, Endpoints, Entity, Identity, Labels, Peer, Selector, Service
from podwire.policy.selectors import from_labels, matches, one_of

EVERYBODY = "all"
NOBODY = "none"
SINGLE_ENTITIES = (
    "world",
    "host",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "health",
    "init",
    "unmanaged",
)
CLUSTER_ENTITIES = tuple(name for name in SINGLE_ENTITIES if name != "world")
NamedPorts = frozenset[tuple[str, int, int]]
"""(name in lower case, protocol, number)."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service, as far as toServices is concerned."""

    namespace: str
    name: str
    labels: Labels = field(default_factory=dict, hash=False)
    """Of the service object, with source ``k8s``."""
    selector: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Labels of its pods as the object has them, without a source; empty: endpoints are written by hand."""
    addresses: frozenset[IPv4Address] = frozenset()
    """Of its endpoints; counts without a selector only."""

    def peers(self) -> tuple[Peer, ...]:
        """Return whom the service stands for."""
        if not self.selector:
            return tuple(Cidr(IPv4Network(address)) for address in sorted(self.addresses))
        pods = {key(K8S, name): value for name, value in self.selector.items()}
        return (Endpoints(from_labels(pods | {NAMESPACE_KEY: self.namespace})),)

    def matches(self, peer: Service) -> bool:
        """Tell whether ``peer`` means this service. An empty namespace means all of them."""
        if peer.namespace not in ("", self.namespace):
            return False
        if peer.name:
            return peer.name == self.name
        return peer.selector is not None and matches(peer.selector, self.labels)


class Selection:
    """A peer of rules and the identities that it means at present, as bits of their slots."""

    __slots__ = ("__weakref__", "bits", "peer")

    def __init__(self, peer: Peer, bits: int) -> None:
        self.peer = peer
        self.bits = bits


@dataclass(slots=True)
class Changed:
    """What a refresh of the world found."""

    selections: set[Selection] = field(default_factory=set)
    """Those that mean other identities now."""
    names: set[tuple[str, int]] = field(default_factory=set)
    """(name, protocol) of named ports that peers have in another way now."""


@dataclass(slots=True)
class _Known:
    slot: int
    labels: Labels
    prefix: IPv4Network | None


class World:
    """All identities and what rules' peers mean among them.

    Changes are booked at once and take effect with ``refresh``: selections are the same until then. Numbers
    are the datapath's; inside, each identity has a slot, its position in sets of bits."""

    def __init__(
        self,
        identities: Mapping[Identity, Labels] | None = None,
        cidrs: Mapping[IPv4Network, Identity] | None = None,
        services: Iterable[ServiceView] = (),
        named_ports: Mapping[Identity, NamedPorts] | None = None,
        cluster: str = DEFAULT_CLUSTER,
    ) -> None:
        self.cluster = cluster
        """Name of this cluster, as its pods are labelled with."""
        self._labels = LabelIndex()
        self._cidrs = CidrIndex()
        self._known: dict[Identity, _Known] = {}
        self._prefixes: dict[IPv4Network, Identity] = {}
        self._numbers: dict[int, Identity] = {}
        self._sorted: dict[int, Sequence[Identity]] = {}
        self._free: list[int] = []
        self._leaving: dict[Identity, int] = {}
        self._fresh_slots = itertools.count()
        self._services: dict[tuple[str, str], ServiceView] = {}
        self._ports: dict[Identity, NamedPorts] = {}
        self._selections: WeakValueDictionary[Peer, Selection] = WeakValueDictionary()
        self._labels_changed = self._services_changed = False
        self._touched: set[IPv4Network] = set()
        self._names: dict[tuple[str, int], dict[int, int]] = {}
        self._names_touched: set[tuple[str, int]] = set()
        for number, labels in RESERVED.items():
            if number != UNKNOWN:
                self._book(number, labels, EVERYWHERE if number == WORLD else None)
        for number, labels in (identities or {}).items():
            self.set_identity(number, labels)
        for prefix, number in (cidrs or {}).items():
            self.set_cidr(prefix, number, (identities or {}).get(number))
        for number, ports in (named_ports or {}).items():
            self.set_named_ports(number, ports)
        self.set_services(services)
        self.refresh()

    def set_identity(self, number: Identity, labels: Labels) -> None:
        """Learn an identity, or other labels of a known one.

        ValueError: a number that means something else in a policy map."""
        known = self._known.get(number)
        if known is not None:
            if known.labels == labels:
                return
            prefix = known.prefix
            self._unbook(number)
            self._book(number, labels, prefix)
        else:
            self._book(number, labels, None)

    def remove_identity(self, number: Identity) -> None:
        """Forget an identity; a reserved one gets its first labels back. Unknown: nothing happens."""
        if number in RESERVED:
            self.set_identity(number, RESERVED[number])
        elif number in self._known:
            self._unbook(number)

    def set_cidr(self, prefix: IPv4Network, number: Identity, labels: Labels | None = None) -> None:
        """Learn the identity of a prefix outside of the cluster; ``labels`` when they are not the usual ones.

        ValueError: 0.0.0.0/0, which is the world, or a number that means something else."""
        if (prefix == EVERYWHERE) != (number == WORLD):
            raise ValueError(f"{prefix} cannot have identity {number}: identity {WORLD} is {EVERYWHERE}")
        if labels is None:
            labels = cidr_labels(prefix)
        known = self._known.get(number)
        if known is not None and known.prefix == prefix and known.labels == labels:
            return
        # One prefix has one identity, and one identity one prefix.
        for other in {number, self._prefixes.get(prefix, number)}:
            if other in self._known:
                self._unbook(other)
        self._book(number, labels, prefix)

    def remove_cidr(self, number: Identity) -> None:
        """Forget the identity of a prefix. Unknown: nothing happens."""
        self.remove_identity(number)

    def set_named_ports(self, number: Identity, ports: NamedPorts) -> None:
        """Learn the container ports of the pods of an identity; empty forgets them."""
        known = self._ports.get(number, frozenset())
        if known == ports:
            return
        if ports:
            self._ports[number] = ports
        else:
            del self._ports[number]
        self._names_touched.update((name, protocol) for name, protocol, _ in known ^ ports)

    def set_service(self, service: ServiceView) -> None:
        """Learn a service, or its present state."""
        key = (service.namespace, service.name)
        if self._services.get(key) != service:
            self._services[key] = service
            self._services_changed = True

    def remove_service(self, namespace: str, name: str) -> None:
        """Forget a service. Unknown: nothing happens."""
        self._services_changed |= self._services.pop((namespace, name), None) is not None

    def set_services(self, services: Iterable[ServiceView]) -> None:
        """Learn all services anew."""
        fresh = {(service.namespace, service.name): service for service in services}
        if fresh != self._services:
            self._services = fresh
            self._services_changed = True

    def services_of(self, peer: Service) -> list[ServiceView]:
        """Return the services that a peer means."""
        return [service for service in self._services.values() if service.matches(peer)]

    def prefixes_of(self, peers: Iterable[Service]) -> set[IPv4Network]:
        """Return the addresses that need identities so that rules can name services without pods."""
        return {
            IPv4Network(address)
            for peer in peers
            for service in self.services_of(peer)
            if not service.selector
            for address in service.addresses
        }

    def selection(self, peer: Peer) -> Selection:
        """Return the identities that ``peer`` means, kept up to date as long as somebody holds the object.

        ValueError: an entity that does not exist, or a Block, which means addresses."""
        selection = self._selections.get(peer)
        if selection is None:
            selection = Selection(peer, self._select(peer))
            self._selections[peer] = selection
        return selection

    def slot_bit(self, number: Identity) -> int:
        """Return the bit of a known identity; 0 of an unknown one."""
        known = self._known.get(number)
        return 0 if known is None else 1 << known.slot

    def numbers(self, bits: int) -> Sequence[Identity]:
        """Return the identities whose bits are set, ascending.

        Equal bits give the same object until a refresh; do not change it."""
        found = self._sorted.get(bits)
        if found is None:
            numbers = self._numbers
            found = self._sorted[bits] = array("L", sorted(numbers[slot] for slot in bit_positions(bits)))
        return found

    def labels(self, number: Identity) -> Labels | None:
        """Return the labels of an identity; None: unknown."""
        known = self._known.get(number)
        return None if known is None else known.labels

    def everybody(self) -> int:
        """Return all identities."""
        return self._labels.everything

    def named(self, name: str, protocol: int) -> Mapping[int, int]:
        """Return the numbers of a named port with the identities that have it so. Only after a refresh."""
        return self._names.get((name, protocol), {})

    def refresh(self) -> Changed:
        """Let everything take effect that was booked; tell what differs now."""
        changed = Changed()
        if self._labels_changed or self._touched or self._services_changed:
            borders = {edge for prefix in self._touched for edge in covering(interval(prefix))}
            for peer, selection in list(self._selections.items()):
                if isinstance(peer, Cidr):
                    stale = bool(borders) and interval(peer.prefix) in borders
                elif isinstance(peer, Service):
                    stale = True
                else:
                    stale = self._labels_changed
                if stale and (bits := self._select(peer)) != selection.bits:
                    selection.bits = bits
                    changed.selections.add(selection)
        self._sorted.clear()
        for slot in self._leaving.values():
            del self._numbers[slot]
            self._free.append(slot)
        self._leaving.clear()
        self._labels_changed = self._services_changed = False
        self._touched.clear()
        self._refresh_names(changed)
        return changed

    def _refresh_names(self, changed: Changed) -> None:
        if not self._names_touched:
            return
        fresh: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
        for identity, ports in self._ports.items():
            bit = self.slot_bit(identity)
            for name, protocol, number in ports:
                if bit and (name, protocol) in self._names_touched:
                    numbers = fresh[name, protocol]
                    numbers[number] = numbers.get(number, 0) | bit
        for name_protocol in self._names_touched:
            self._names[name_protocol] = fresh.get(name_protocol, {})
        changed.names |= self._names_touched
        self._names_touched = set()

    def _book(self, number: Identity, labels: Labels, prefix: IPv4Network | None) -> None:
        if number == UNKNOWN or CLASS_FIRST - 1 <= number <= CLASS_LAST:
            raise ValueError(f"{number} cannot be an identity: policy maps use it otherwise")
        slot = self._leaving.pop(number, None)
        if slot is None:
            slot = self._free.pop() if self._free else next(self._fresh_slots)
        self._known[number] = _Known(slot, labels, prefix)
        self._numbers[slot] = number
        self._labels.add(slot, labels)
        self._labels_changed = True
        if prefix is not None:
            self._cidrs.add(interval(prefix), slot)
            self._prefixes[prefix] = number
            self._touched.add(prefix)
        self._names_touched.update((name, protocol) for name, protocol, _ in self._ports.get(number, ()))

    def _unbook(self, number: Identity) -> None:
        known = self._known.pop(number)
        self._labels.remove(known.slot, known.labels)
        self._labels_changed = True
        # The slot is nobody else's until all selections have forgotten it.
        self._leaving[number] = known.slot
        if known.prefix is not None:
            self._cidrs.remove(interval(known.prefix))
            del self._prefixes[known.prefix]
            self._touched.add(known.prefix)
        self._names_touched.update((name, protocol) for name, protocol, _ in self._ports.get(number, ()))

    def _select(self, peer: Peer) -> int:
        if isinstance(peer, Endpoints):
            return self._labels.select(peer.selector)
        if isinstance(peer, Cidr):
            return self._cidrs.select(peer)
        if isinstance(peer, Service):
            bits = 0
            for service in self.services_of(peer):
                for meant in service.peers():
                    bits |= self._select(meant)
            return bits
        if isinstance(peer, Entity):
            return self._select_entity(peer.name)
        raise ValueError(f"{peer} means addresses, not identities")

    def _select_entity(self, name: str) -> int:
        if name == EVERYBODY:
            return self._labels.everything
        if name == NOBODY:
            return 0
        if name in SINGLE_ENTITIES:
            return self._labels.having(f"reserved:{name}")
        if name != "cluster":
            raise ValueError(f"there is no entity {name!r}")
        bits = self._labels.select(Selector((one_of(CLUSTER_KEY, self.cluster),)))
        for single in CLUSTER_ENTITIES:
            bits |= self._labels.having(f"reserved:{single}")
        return bits
