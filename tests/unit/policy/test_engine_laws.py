"""For any sequence of changes: the engine holds what one computation of the final state gives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.policy.compile import compile_policy
from podwire.policy.engine import PolicyEngine
from podwire.policy.model import Compiled, Enforcement, Labels, Origin, Policy, Rule, Subject
from podwire.policy.world import NamedPorts, ServiceView, World

from . import strategies as some
from .cluster import view

NAMES = ("a", "b", "c")
SLOTS = tuple(range(300, 306))
PODS = tuple(party for name, party in some.CLUSTER.parties.items() if name in ("web", "cli", "far", "job"))
SERVICES = tuple(view(service) for service in some.SERVICES)


@dataclass
class State:
    """Everything that was booked, as plain values."""

    policies: dict[str, tuple[Rule, ...]] = field(default_factory=dict)
    identities: dict[int, Labels] = field(default_factory=dict)
    ports: dict[int, NamedPorts] = field(default_factory=dict)
    cidrs: dict[IPv4Network, int] = field(default_factory=dict)
    services: dict[tuple[str, str], ServiceView] = field(default_factory=dict)
    subjects: set[Subject] = field(default_factory=set)
    enforcement: Enforcement = Enforcement.DEFAULT

    def compute(self) -> dict[Subject, Compiled]:
        """Return the policies of all subjects, from nothing."""
        world = World(self.identities, self.cidrs, self.services.values(), self.ports)
        rules = [rule for name in sorted(self.policies) for rule in self.policies[name]]
        return {subject: compile_policy(subject, rules, world, self.enforcement) for subject in self.subjects}


def origin(name: str) -> Origin:
    return Origin("Test", "", name)


def key(name: str) -> str:
    return origin(name).key


Step: TypeAlias = tuple[object, ...]
named_rules = st.lists(some.rules(), max_size=2).map(tuple)
steps: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("policy"), st.sampled_from(NAMES), named_rules),
    st.tuples(st.just("no policy"), st.sampled_from(NAMES)),
    st.tuples(st.just("identity"), st.sampled_from(SLOTS), st.sampled_from(PODS)),
    st.tuples(st.just("identity"), st.sampled_from(SLOTS), st.sampled_from(PODS)),
    st.tuples(st.just("no identity"), st.sampled_from(SLOTS)),
    st.tuples(st.just("host"), st.booleans()),
    st.tuples(st.just("subject"), st.sampled_from(PODS)),
    st.tuples(st.just("no subject"), st.sampled_from(PODS)),
    st.tuples(st.just("service"), st.sampled_from(SERVICES)),
    st.tuples(st.just("service moves"), st.sampled_from(SERVICES)),
    st.tuples(st.just("no service"), st.sampled_from(SERVICES)),
    st.tuples(st.just("mode"), st.sampled_from(Enforcement)),
)


def subject_of(place: int) -> Subject:
    return Subject(400 + place, PODS[place].labels, PODS[place].named_ports)


class Both:
    """An engine and the plain state, changed alike."""

    def __init__(self) -> None:
        self.engine = PolicyEngine()
        self.state = State()
        self.numbers = iter(range(0x01000001, 0x02000000))

    def take(self, step: Step) -> None:
        engine, state = self.engine, self.state
        match step:
            case ("policy", str(name), tuple(rules)):
                bound = tuple(replace(rule, origin=origin(name)) for rule in rules)
                engine.set_policy(Policy(origin(name), bound))
                state.policies[name] = bound
            case ("no policy", str(name)):
                engine.remove_policy(key(name))
                state.policies.pop(name, None)
            case ("identity", int(number), party):
                engine.world.set_identity(number, party.labels)
                engine.world.set_named_ports(number, party.named_ports)
                state.identities[number] = party.labels
                state.ports[number] = party.named_ports
            case ("no identity", int(number)):
                engine.world.remove_identity(number)
                engine.world.set_named_ports(number, frozenset())
                state.identities.pop(number, None)
                state.ports.pop(number, None)
            case ("host", bool(with_api)):
                labels = {"reserved:host": ""} | ({"reserved:kube-apiserver": ""} if with_api else {})
                engine.world.set_identity(1, labels)
                state.identities[1] = labels
            case ("subject", party):
                state.subjects.add(subject_of(PODS.index(party)))
            case ("no subject", party):
                state.subjects.discard(subject_of(PODS.index(party)))
            case ("service" | "service moves" as how, service):
                if how == "service moves":
                    moved = frozenset(address + 1 for address in service.addresses)
                    service = replace(service, addresses=moved)
                engine.world.set_service(service)
                state.services[service.namespace, service.name] = service
            case ("no service", service):
                engine.world.remove_service(service.namespace, service.name)
                state.services.pop((service.namespace, service.name), None)
            case ("mode", Enforcement() as mode):
                engine.enforcement = mode
                state.enforcement = mode

    def settle(self) -> dict[Subject, Compiled]:
        """Give numbers to the prefixes that need one, take them from the others; update."""
        wanted = self.engine.wanted_prefixes()
        for prefix in set(self.state.cidrs) - wanted:
            self.engine.world.remove_cidr(self.state.cidrs.pop(prefix))
        for prefix in sorted(wanted - set(self.state.cidrs)):
            number = next(self.numbers)
            self.engine.world.set_cidr(prefix, number)
            self.state.cidrs[prefix] = number
        return self.engine.update(self.state.subjects)


@settings(max_examples=150)
@given(
    st.tuples(*(some.rules(full=True) for _ in NAMES)),
    st.lists(st.tuples(steps, st.booleans()), min_size=8, max_size=20),
)
def test_changes_lead_to_what_the_final_state_means(
    rules: tuple[Rule, ...], sequence: list[tuple[Step, bool]]
) -> None:
    both = Both()
    for place, party in enumerate(PODS):
        both.take(("identity", SLOTS[place], party))
        both.take(("subject", party))
    for name, rule in zip(NAMES, rules, strict=True):
        both.take(("policy", name, (rule,)))
    both.settle()
    for step, pause in [*sequence, (("mode", Enforcement.DEFAULT), True)]:
        both.take(step)
        if pause:
            results = both.settle()
            assert results == both.state.compute()
            again = both.engine.update(both.state.subjects)
            assert all(again[subject] is results[subject] for subject in results)
            digests = {compiled.digest: compiled for compiled in results.values()}
            assert all(digests[compiled.digest] is compiled for compiled in results.values())
