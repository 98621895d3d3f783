"""The policy engine, fed with what this node knows of the cluster. Pure, apart from what it remembers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from podwire.agent.identity_view import LocalEndpoint, NamedPorts, World
from podwire.policy.cidr import wanted_prefixes
from podwire.policy.engine import PolicyEngine
from podwire.policy.identity import is_local
from podwire.policy.labels import DEFAULT_CLUSTER
from podwire.policy.model import Compiled, Enforcement, Labels, Policy, Service, Subject
from podwire.policy.world import ServiceView
from podwire.policy.world import World as EngineWorld


class NodeEngine:
    """Takes whole states and books the differences. Not thread-safe."""

    def __init__(
        self, enforcement: Enforcement = Enforcement.DEFAULT, cluster: str = DEFAULT_CLUSTER
    ) -> None:
        self.engine = PolicyEngine(EngineWorld(cluster=cluster), enforcement)
        self._policies: Mapping[str, Policy] = {}
        self._wanted: dict[str, tuple[Policy, frozenset[IPv4Network], frozenset[Service]]] = {}
        self._identities: Mapping[int, Labels] = {}
        self._named_ports: Mapping[int, NamedPorts] = {}
        self._cidrs: Mapping[IPv4Network, int] = {}

    def prefixes(self, policies: Mapping[str, Policy]) -> set[IPv4Network]:
        """Prefixes that need identities of their own for these policies, which need not be in force yet."""
        self._wanted = {key: self._wants(key, policy) for key, policy in policies.items()}
        found: set[IPv4Network] = set()
        services: set[Service] = set()
        for _, prefixes, peers in self._wanted.values():
            found |= prefixes
            services |= peers
        for peer in services:
            for service in self.engine.world.services_of(peer):
                if not service.selector:
                    found.update(IPv4Network(address) for address in service.addresses)
        return found

    def set_policies(self, policies: Mapping[str, Policy]) -> None:
        """Take all policies in force, by key."""
        for key in self._policies.keys() - policies.keys():
            self.engine.remove_policy(self._policies[key].origin.key)
        for key, policy in policies.items():
            if self._policies.get(key) is not policy:
                self.engine.set_policy(policy)
        self._policies = dict(policies)

    def set_world(self, world: World, cidrs: Mapping[IPv4Network, int]) -> None:
        """Take what is known of identities, and the identities of prefixes. Labels of prefixes are the usual
        ones, unless the world says otherwise: of an API server outside the cluster."""
        engine = self.engine.world
        if world.identities is not self._identities:
            for number in self._identities.keys() - world.identities.keys():
                engine.remove_identity(number)
            for number, labels in world.identities.items():
                if not is_local(number) and self._identities.get(number) != labels:
                    engine.set_identity(number, labels)
        if world.named_ports is not self._named_ports:
            for number in self._named_ports.keys() - world.named_ports.keys():
                engine.set_named_ports(number, frozenset())
            for number, ports in world.named_ports.items():
                engine.set_named_ports(number, ports)
            self._named_ports = world.named_ports
        every = {**cidrs, **world.api_servers}
        if every != self._cidrs or world.identities is not self._identities:
            for number in set(self._cidrs.values()) - set(every.values()):
                engine.remove_cidr(number)
            for prefix, number in every.items():
                engine.set_cidr(prefix, number, world.identities.get(number))
            self._cidrs = every
        self._identities = world.identities

    def set_services(self, services: Iterable[ServiceView]) -> None:
        """Take the services that rules may name."""
        self.engine.world.set_services(services)

    def compile(self, endpoints: Mapping[str, LocalEndpoint]) -> dict[str, Compiled]:
        """The policies of endpoints, by their keys."""
        subjects = {key: subject_of(endpoint) for key, endpoint in endpoints.items()}
        compiled = self.engine.update(subjects.values())
        return {key: compiled[subject] for key, subject in subjects.items()}

    def subjects_of(self, key: str, endpoints: Mapping[str, LocalEndpoint]) -> list[str]:
        """Those of ``endpoints`` that a policy selects, by their keys."""
        chosen = set(self.engine.subjects_of(key))
        return [name for name, endpoint in endpoints.items() if subject_of(endpoint) in chosen]

    def names_services(self) -> bool:
        """Does any policy name services?"""
        return any(peers for _, _, peers in self._wanted.values())

    def _wants(self, key: str, policy: Policy) -> tuple[Policy, frozenset[IPv4Network], frozenset[Service]]:
        known = self._wanted.get(key)
        if known is not None and known[0] is policy:
            return known
        peers = frozenset(
            peer
            for rule in policy.rules
            for entry in rule.entries
            for peer in entry.peers or ()
            if isinstance(peer, Service)
        )
        return policy, frozenset(wanted_prefixes(policy.rules)), peers


def subject_of(endpoint: LocalEndpoint) -> Subject:
    return Subject(endpoint.identity, endpoint.labels, endpoint.named_ports)
