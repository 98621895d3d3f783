"""Rules of every kind, over a cluster so small that they often mean the same parties and ports."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import strategies as st

from podwire.policy.model import (
    Block,
    Cidr,
    Direction,
    Endpoints,
    Entity,
    Entry,
    NamedPort,
    Operator,
    Origin,
    Peer,
    Port,
    PortRange,
    Requirement,
    Rule,
    Selector,
    Service,
)

from .cluster import Cluster, pod, reserved
from .reference import KubernetesService

TCP, UDP, SCTP, ICMP = 6, 17, 132, 1
EDGES = (0, 1, 79, 80, 81, 82, 1023, 1024, 65534, 65535)
PROBES = [(protocol, port) for protocol in (TCP, UDP) for port in EDGES] + [
    (SCTP, 80), (ICMP, 0), (ICMP, 8), (ICMP, 80),
]  # fmt: skip
ZONE = IPv4Network("10.0.0.0/28")
OUTSIDE_9 = IPv4Address("10.0.0.9")
SERVICES = (
    KubernetesService("alpha", "web", {"k8s:tier": "front"}, {"app": "web"}),
    KubernetesService("beta", "jobs", {"k8s:tier": "back"}, {"app": "job"}, frozenset({OUTSIDE_9})),
    KubernetesService(
        "alpha", "manual", {"k8s:tier": "front"}, {},
        frozenset({IPv4Address("10.0.0.10"), IPv4Address("10.0.0.2")}),
    ),
)  # fmt: skip
CLUSTER = Cluster(
    {
        "web": pod("10.0.0.1", "alpha", {("http", TCP, 80), ("alt", TCP, 81), ("http", UDP, 80)}, app="web"),
        "cli": pod("10.0.0.2", "alpha", {("http", TCP, 1024)}, app="cli"),
        "far": pod("10.0.0.3", "beta", app="cli"),
        "job": pod(
            "10.0.0.4", "beta", {("http", TCP, 82), ("alt", TCP, 80), ("alt", TCP, 79)}, app="job", tier="x"
        ),
        "host": reserved("10.0.0.5", "host"),
        "node": reserved("10.0.0.6", "remote-node"),
        "api": reserved("10.0.0.7", "kube-apiserver", "remote-node"),
        "health": reserved("10.0.0.8", "health"),
        "init": reserved("10.0.0.12", "init"),
        "outside-9": reserved("10.0.0.9", "world"),
        "outside-10": reserved("10.0.0.10", "world"),
        "outside-11": reserved("10.0.0.11", "world"),
        "outside-15": reserved("10.0.0.15", "world"),
        "elsewhere": reserved("192.0.2.1", "world"),
    },
    SERVICES,
)  # fmt: skip
SUBJECTS = ("web", "cli", "far", "job", "init")

KEYS = ("app", "tier", "io.kubernetes.pod.namespace", "absent")
keys = st.one_of(
    st.builds("{}:{}".format, st.sampled_from(["k8s", "any"]), st.sampled_from(KEYS)),
    st.sampled_from(["reserved:world", "any:world", "reserved:host", "any:remote-node", "any:host"]),
)
values = st.frozensets(
    st.sampled_from(["web", "cli", "job", "x", "alpha", "beta", ""]), min_size=1, max_size=3
)


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    """A term of a selector."""
    operator = draw(st.sampled_from(Operator))
    exact = operator in (Operator.IN, Operator.NOT_IN)
    return Requirement(draw(keys), operator, draw(values) if exact else frozenset())


selectors = st.lists(requirements(), max_size=2).map(lambda terms: Selector(tuple(terms)))


@st.composite
def prefixes(draw: st.DrawFn, within: IPv4Network = ZONE) -> IPv4Network:
    """Any part of ``within``, or sometimes all of the world."""
    if within == ZONE and draw(st.integers(0, 9)) == 0:
        return IPv4Network(draw(st.sampled_from(["0.0.0.0/0", "10.0.0.0/8"])))
    within = ZONE if within.prefixlen < ZONE.prefixlen else within
    length = draw(st.integers(within.prefixlen, 32))
    address = draw(st.integers(int(within.network_address), int(within.broadcast_address)))
    return IPv4Network((address, length), strict=False)


@st.composite
def excepted(draw: st.DrawFn, prefix: IPv4Network) -> tuple[IPv4Network, ...]:
    """Some parts of a prefix."""
    return tuple(draw(st.lists(prefixes(prefix), max_size=2)))


@st.composite
def cidrs(draw: st.DrawFn) -> Cidr:
    """A peer of a CIDR rule."""
    prefix = draw(prefixes())
    return Cidr(prefix, draw(excepted(prefix)))


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """A peer of an ipBlock."""
    prefix = draw(prefixes())
    return Block(prefix, draw(excepted(prefix)))


entities = st.sampled_from(
    [
        "all",
        "none",
        "world",
        "cluster",
        "host",
        "remote-node",
        "kube-apiserver",
        "health",
        "init",
        "unmanaged",
    ]
).map(Entity)
services = st.one_of(
    st.builds(
        Service, st.sampled_from(["alpha", "beta", ""]), st.sampled_from(["web", "jobs", "manual", "nosuch"])
    ),
    st.builds(
        Service,
        st.sampled_from(["alpha", "beta", ""]),
        st.just(""),
        st.sampled_from(["front", "back"]).map(
            lambda tier: Selector((Requirement("k8s:tier", Operator.IN, frozenset({tier})),))
        ),
    ),
)
identities = st.one_of(selectors.map(Endpoints), cidrs(), entities, services)
peers = st.one_of(identities, blocks())
protocols = st.sampled_from([TCP, TCP, TCP, UDP, SCTP])


@st.composite
def ranges(draw: st.DrawFn) -> PortRange:
    """Ports by number."""
    if draw(st.integers(0, 4)) == 0:
        return draw(
            st.sampled_from([PortRange(ICMP, 8, 8), PortRange(ICMP, 0, 0), PortRange(TCP), PortRange(UDP)])
        )
    first, last = sorted([draw(st.sampled_from(EDGES)), draw(st.sampled_from(EDGES))])
    if draw(st.booleans()):
        last = first
    return PortRange(draw(protocols), first, last)


ports: st.SearchStrategy[Port] = st.one_of(
    ranges(), st.builds(NamedPort, protocols, st.sampled_from(["http", "alt", "nosuch"]))
)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """One item of a rule; only allows name blocks."""
    deny = draw(st.integers(0, 3)) == 0
    whom: st.SearchStrategy[Peer] = identities if deny else peers
    some = draw(st.one_of(st.none(), st.lists(whom, max_size=3).map(tuple)))
    which = draw(st.one_of(st.none(), st.lists(ports, max_size=3).map(tuple)))
    return Entry(draw(st.sampled_from(Direction)), some, which, deny, f"place[{draw(st.integers(0, 9))}]")


@st.composite
def rules(draw: st.DrawFn, full: bool = False) -> Rule:
    """A rule that selects some of the pods, mostly. ``full``: all of them, and it closes both directions."""
    name = draw(st.sampled_from("abcdef"))
    subject = Selector() if full else draw(st.one_of(st.just(Selector()), st.just(Selector()), selectors))
    closed = frozenset(Direction) if full else draw(st.frozensets(st.sampled_from(Direction)))
    said = draw(st.lists(entries(), min_size=2 if full else 0, max_size=4))
    return Rule(Origin("Test", "", name), subject, tuple(said), closed)
