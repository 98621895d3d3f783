"""A small cluster for tests: parties, their identities, and the same world for engine and reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from podwire.policy.cidr import wanted_prefixes
from podwire.policy.model import Compiled, Direction, Enforcement, Rule, Subject
from podwire.policy.world import ServiceView, World

from .lookup import Found, PolicyMap
from .reference import KubernetesService, Packet, Party, judge

FIRST_CIDR = 0x01000001
RESERVED = {
    "reserved:host": 1,
    "reserved:world": 2,
    "reserved:health": 4,
    "reserved:init": 5,
    "reserved:kube-apiserver": 7,
    "reserved:remote-node": 6,
}


def pod(
    address: str, namespace: str, named_ports: Iterable[tuple[str, int, int]] = (), **labels: str
) -> Party:
    """A pod as an agent sees it."""
    own = {f"k8s:{key}": value for key, value in labels.items()}
    derived = {
        "k8s:io.kubernetes.pod.namespace": namespace,
        "k8s:io.cilium.k8s.policy.cluster": "default",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": namespace,
    }
    return Party(IPv4Address(address), own | derived, frozenset(named_ports))


def reserved(address: str, *names: str) -> Party:
    """A node, or whoever else has a reserved identity."""
    return Party(IPv4Address(address), {f"reserved:{name}": "" for name in names})


@dataclass
class Cluster:
    """Parties, with a number for each set of labels; prefixes of rules get theirs as the agent gives them."""

    parties: Mapping[str, Party]
    services: tuple[KubernetesService, ...] = ()

    def __post_init__(self) -> None:
        self._numbers: dict[tuple[tuple[str, str], ...], int] = {}
        for party in self.parties.values():
            key = tuple(sorted(party.labels.items()))
            known = next((number for name, number in RESERVED.items() if name in party.labels), None)
            if known == 2 and "reserved:kube-apiserver" in party.labels:
                known = FIRST_CIDR + 0x10000
            self._numbers.setdefault(key, known or 256 + len(self._numbers))

    def prefixes(self, rules: Iterable[Rule]) -> dict[IPv4Network, int]:
        """Give numbers to all prefixes that rules and services need."""
        wanted = wanted_prefixes(rules)
        wanted.update(
            IPv4Network(address)
            for service in self.services
            if not service.selector
            for address in service.addresses
        )
        return {prefix: FIRST_CIDR + place for place, prefix in enumerate(sorted(wanted))}

    def world(self, rules: Iterable[Rule]) -> World:
        """Return what an engine must know of this cluster."""
        world = World(cidrs=self.prefixes(rules), services=[view(service) for service in self.services])
        for party in self.parties.values():
            number = self._numbers[tuple(sorted(party.labels.items()))]
            if "reserved:world" not in party.labels:
                world.set_identity(number, party.labels)
                world.set_named_ports(number, party.named_ports)
        world.refresh()
        return world

    def identity(self, party: Party, prefixes: Mapping[IPv4Network, int]) -> int:
        """Return what the datapath takes a party for: its own identity, else that of the longest prefix."""
        if "reserved:world" not in party.labels:
            return self._numbers[tuple(sorted(party.labels.items()))]
        holding = [prefix for prefix in prefixes if party.address in prefix]
        return prefixes[max(holding, key=lambda prefix: prefix.prefixlen)] if holding else 2

    def subject(self, name: str) -> Subject:
        """Return a party as a subject of policy."""
        party = self.parties[name]
        return Subject(self.identity(party, {}), party.labels, party.named_ports)


def view(service: KubernetesService) -> ServiceView:
    """Return a service as the engine knows it."""
    return ServiceView(service.namespace, service.name, service.labels, service.selector, service.addresses)


@dataclass
class Judges:
    """Engine (by the datapath's look-ups) and reference, about one subject."""

    cluster: Cluster
    name: str
    rules: tuple[Rule, ...]
    enforcement: Enforcement
    compiled: Compiled

    def __post_init__(self) -> None:
        self.map = PolicyMap(self.compiled)
        self._prefixes = self.cluster.prefixes(self.rules)

    def by_datapath(self, direction: Direction, peer: str, protocol: int, port: int) -> Found:
        """Return what the policy map says."""
        party = self.cluster.parties[peer]
        identity = self.cluster.identity(party, self._prefixes)
        return self.map.decide(direction, identity, party.address, protocol, port)

    def by_reference(self, direction: Direction, peer: str, protocol: int, port: int) -> int:
        """Return what the rules say."""
        packet = Packet(
            direction, self.cluster.parties[self.name], self.cluster.parties[peer], protocol, port
        )
        return judge(packet, self.rules, self.enforcement, self.cluster.services)
