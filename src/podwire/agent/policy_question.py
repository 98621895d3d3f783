"""Questions of `podwire policy trace`: who asks for what, and who that is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Any

from podwire.agent.identity_view import LocalEndpoint, NamedPorts, RemoteEndpoint, World
from podwire.policy import labels as security
from podwire.policy.identity import RESERVED, WORLD, cidr_labels
from podwire.policy.model import Labels

PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "SCTP": 132}
_PEER_KEYS = ("pod", "labels", "address", "identity")


class TraceError(Exception):
    """A question that makes no sense, or is about nobody. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A peer as it was asked for: one of these."""

    pod: str = ""
    labels: Labels | None = None
    address: str = ""
    identity: int | None = None

    def __str__(self) -> str:
        if self.pod:
            return self.pod
        if self.labels is not None:
            return ",".join(f"{key}={value}" if value else key for key, value in self.labels.items())
        return self.address or f"identity {self.identity}"


@dataclass(frozen=True, slots=True)
class Question:
    """May ``source`` reach this port of ``destination``?"""

    source: Asked
    destination: Asked
    port: int
    protocol: int


@dataclass(frozen=True, slots=True)
class Party:
    """Who a peer is, as far as this node knows."""

    text: str
    identity: int
    labels: Labels
    address: IPv4Address | None = None
    named_ports: NamedPorts = frozenset()
    endpoint: str = ""
    """Key of the endpoint of this node that it is; empty for others."""
    node: str = ""
    """Where it is, when that is known."""


def parse_question(body: Any) -> Question:
    """A request's body. Raises TraceError."""
    if not isinstance(body, Mapping):
        raise TraceError("the request is not a mapping with src, dst, port and protocol")
    unknown = sorted(set(body) - {"src", "dst", "port", "protocol"})
    if unknown:
        raise TraceError(f"unknown keys: {', '.join(unknown)}")
    port, protocol = body.get("port", 0), body.get("protocol", "TCP")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise TraceError(f"port must be a whole number from 0 to 65535, not {port!r}")
    if not isinstance(protocol, str) or protocol.upper() not in PROTOCOLS:
        raise TraceError(f"protocol must be one of {', '.join(PROTOCOLS)}, not {protocol!r}")
    return Question(
        _asked(body.get("src"), "src"), _asked(body.get("dst"), "dst"), port, PROTOCOLS[protocol.upper()]
    )


def _asked(value: Any, where: str) -> Asked:
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in _PEER_KEYS:
        raise TraceError(f"{where} must have exactly one of {', '.join(_PEER_KEYS)}")
    ((key, item),) = value.items()
    if key == "identity":
        if isinstance(item, bool) or not isinstance(item, int) or item < 1:
            raise TraceError(f"{where}: identity must be a number from 1, not {item!r}")
        return Asked(identity=item)
    if not isinstance(item, str) or not item:
        raise TraceError(f"{where}: {key} must be a text, not {item!r}")
    if key == "labels":
        try:
            return Asked(labels=security.parse_list(item))
        except ValueError as error:
            raise TraceError(f"{where}: {error}") from error
    if key == "address":
        try:
            return Asked(address=str(IPv4Address(item)))
        except AddressValueError as error:
            raise TraceError(f"{where}: {item!r} is no IPv4 address") from error
    if item.count("/") != 1:
        raise TraceError(f"{where}: pod must be NAMESPACE/POD, not {item!r}")
    return Asked(pod=item)


class Resolver:
    """Finds out who is meant, by what the node knows now."""

    def __init__(self, world: World, cidrs: Mapping[IPv4Network, int]) -> None:
        self._world = world
        self._cidrs = {**cidrs, **world.api_servers}

    def party(self, asked: Asked) -> Party:
        """Raises TraceError when there is no such pod or identity."""
        if asked.pod:
            return self._pod(asked)
        if asked.address:
            return self._address(asked)
        if asked.labels is not None:
            return self._labels(asked, asked.labels)
        number = asked.identity or 0
        labels = self._labels_of(number)
        if labels is None:
            raise TraceError(f"this node knows no identity {number}; see podwire identity list")
        return Party(str(asked), number, labels, named_ports=self._world.named_ports.get(number, frozenset()))

    def _pod(self, asked: Asked) -> Party:
        namespace, _, name = asked.pod.partition("/")
        for local in self._world.local.values():
            if (local.namespace, local.pod) == (namespace, name):
                return self._local(str(asked), local)
        for remote in self._world.remote.values():
            if (remote.namespace, remote.pod) == (namespace, name):
                return self._remote(str(asked), remote)
        raise TraceError(
            f"there is no pod {asked.pod} in the pod network (one of the host's network is the node: "
            "reserved:host or reserved:remote-node)"
        )

    def _address(self, asked: Asked) -> Party:
        for local in self._world.local.values():
            if local.address == asked.address:
                return self._local(f"{asked.address} ({local.namespace}/{local.pod})", local)
        remote = self._world.remote.get(asked.address)
        if remote is not None:
            return self._remote(f"{asked.address} ({remote.namespace}/{remote.pod})", remote)
        address = IPv4Address(asked.address)
        number = self._world.nodes.get(asked.address) or self._covering(address)
        return Party(str(asked), number, self._labels_of(number) or {}, address)

    def _labels(self, asked: Asked, labels: Labels) -> Party:
        """The identity that has exactly these labels, or the first that has at least these."""
        candidates = {**RESERVED, **self._world.identities}
        having = [
            number
            for number, known in sorted(candidates.items())
            if number and all(known.get(key) == value for key, value in labels.items())
        ]
        if not having:
            raise TraceError(f"no identity has the labels {asked}; see podwire identity list")
        number = next((item for item in having if candidates[item] == labels), having[0])
        for local in self._world.local.values():
            if local.identity == number:
                return self._local(f"{asked} ({local.namespace}/{local.pod})", local)
        ports = self._world.named_ports.get(number, frozenset())
        return Party(f"{asked} (identity {number})", number, candidates[number], named_ports=ports)

    def _covering(self, address: IPv4Address) -> int:
        found = [prefix for prefix in self._cidrs if address in prefix]
        return self._cidrs[max(found, key=lambda prefix: prefix.prefixlen)] if found else WORLD

    def _labels_of(self, number: int) -> Labels | None:
        known = self._world.identities.get(number) or RESERVED.get(number)
        if known is not None:
            return known
        prefix = next((prefix for prefix, other in self._cidrs.items() if other == number), None)
        return cidr_labels(prefix) if prefix is not None else None

    def _local(self, text: str, local: LocalEndpoint) -> Party:
        address = IPv4Address(local.address)
        return Party(text, local.identity, local.labels, address, local.named_ports, local.key, "this node")

    def _remote(self, text: str, remote: RemoteEndpoint) -> Party:
        labels = self._labels_of(remote.identity) or {}
        address = IPv4Address(remote.address)
        return Party(text, remote.identity, labels, address, remote.named_ports, node=remote.node)
