"""What policies say, after parsing: one form for CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and
Kubernetes NetworkPolicy. Values only; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from ipaddress import IPv4Network
from typing import NamedTuple, TypeAlias

Labels: TypeAlias = Mapping[str, str]
"""Security labels of an identity: ``source:key`` -> value, such as ``k8s:app`` -> ``web``."""
Identity: TypeAlias = int
"""Number of an identity, as the datapath compares it. Unsigned, 32 bits."""


class Direction(IntEnum):
    """As in a policy map's key (flows and events count from 1)."""

    INGRESS = 0
    EGRESS = 1


class Operator(str, Enum):
    """Of a label requirement, as Kubernetes names them."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a selector."""

    key: str
    """``source:key``; source ``any`` matches the key from every source."""
    operator: Operator
    values: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; without any, every set of labels matches."""

    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Peers by their labels."""

    selector: Selector


@dataclass(frozen=True, slots=True)
class Entity:
    """Peers by a name of their own: ``world``, ``host``, ``cluster``..."""

    name: str


@dataclass(frozen=True, slots=True)
class Cidr:
    """Addresses outside of the cluster (CiliumNetworkPolicy): prefix identities, never pods or nodes."""

    prefix: IPv4Network
    excepted: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Addresses, whoever has them (ipBlock of a Kubernetes NetworkPolicy): pods and nodes too."""

    prefix: IPv4Network
    excepted: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """The backends of services (toServices)."""

    namespace: str
    """Empty: every namespace."""
    name: str = ""
    """Empty: chosen by ``selector``."""
    selector: Selector | None = None
    """Over the labels of the service object, with source ``k8s``."""


Peer: TypeAlias = Endpoints | Entity | Cidr | Block | Service

PROTOCOL_ANY = 0
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_SCTP = 132


@dataclass(frozen=True, slots=True)
class PortRange:
    """Destination ports of one protocol. ICMP: the type takes the port's place."""

    protocol: int
    """IP protocol number, never PROTOCOL_ANY: parsers write ANY out as TCP, UDP and SCTP."""
    first: int = 0
    last: int = 65535


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A port by its name: of the subject's containers (ingress), of each peer's (egress). Unknown: none."""

    protocol: int
    name: str
    """Lower case."""


Port: TypeAlias = PortRange | NamedPort


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a rule stands, for people."""

    kind: str
    """CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, NetworkPolicy; ``reserved`` for podwire's own."""
    namespace: str
    """Empty for what has none."""
    name: str
    uid: str = ""

    @property
    def key(self) -> str:
        """``Kind/namespace/name``, or ``Kind/name``."""
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of ingress, ingressDeny, egress or egressDeny: a peer AND a port of it."""

    direction: Direction
    peers: tuple[Peer, ...] | None
    """None: everybody. Empty: nobody."""
    ports: tuple[Port, ...] | None
    """None: every port and protocol, ICMP too. Empty: none."""
    deny: bool = False
    place: str = ""
    """Where in its object: ``spec.ingress[0]``, ``specs[1].egressDeny[2]``."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one ``spec`` says about its subjects."""

    origin: Origin
    subject: Selector
    """Already bound to the policy's namespace where it has one."""
    entries: tuple[Entry, ...]
    default_deny: frozenset[Direction]
    """Directions that this rule closes for whatever no rule allows."""
    log: str = ""
    """``spec.log.value``."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One object of the API. Invalid: ``errors`` say why, and there are no rules."""

    origin: Origin
    rules: tuple[Rule, ...] = ()
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Said in the status; enforced nevertheless."""
    resource_version: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """An endpoint of this node, as far as its policy is concerned. Equal subjects have equal policies."""

    identity: Identity
    labels: Labels = field(hash=False)
    named_ports: frozenset[tuple[str, int, int]] = frozenset()
    """(name in lower case, protocol, number) of the pod's containers."""


class Enforcement(str, Enum):
    """Modes of the agent (``policy_enforcement``)."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


class Match(IntEnum):
    """What an entry of a policy map named; numbers are Cilium's match types."""

    NONE = 0
    L3_ONLY = 1
    L3_L4 = 2
    L4_ONLY = 3
    ALL = 4
    L3_PROTO = 5
    PROTO_ONLY = 6


class MapKey(NamedTuple):
    """Key of a policy map's entry, before it is written as a prefix of bits."""

    direction: Direction
    identity: Identity
    """0: everybody."""
    protocol: int = PROTOCOL_ANY
    port: int = 0
    """First port of the aligned range."""
    port_prefix: int = 0
    """Leading bits of ``port`` that must agree: 16 for one port, 0 for all. 0 with PROTOCOL_ANY."""


class MapValue(NamedTuple):
    """Verdict of a policy map's entry."""

    deny: bool = False
    rule: int = 0
    """Index + 1 into ``Compiled.reasons``; 0 = none."""
    proxy_port: int = 0
    """Port of the proxy that gets the connection; 0 = none."""


@dataclass(frozen=True, slots=True)
class BlockKey:
    """A prefix of addresses that Kubernetes' ipBlocks draw a border around."""

    direction: Direction
    prefix: IPv4Network


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy map's contents for one subject. The datapath's decision, in this order:

    1. the longest match for the peer's identity and the longest for identity 0: a deny of either wins, then
       an allow of either;
    2. the longest match of ``blocks`` for the peer's address gives a class: the longest match of ``entries``
       for that class as identity decides;
    3. refused."""

    enforced: frozenset[Direction]
    """A direction that is not enforced has an entry that allows everything, and deny entries if there are."""
    entries: Mapping[MapKey, MapValue] = field(hash=False)
    blocks: Mapping[BlockKey, Identity] = field(hash=False)
    """Prefix -> class, an identity of the scope 0x03000000 that exists in this map only."""
    reasons: tuple[str, ...] = ()
    """Sentences for ``MapValue.rule``: ``Kind/namespace/name spec.ingress[0]``."""
    digest: str = ""
    """Equal for equal contents: endpoints share one map then."""

    @property
    def size(self) -> int:
        """Places that a policy map needs: entries and blocks live in one."""
        return len(self.entries) + len(self.blocks)
