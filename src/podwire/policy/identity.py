"""Numbers of identities: the reserved ones, and how the others are chosen. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from types import MappingProxyType

from podwire.policy import labels as security
from podwire.policy.model import Identity, Labels

UNKNOWN: Identity = 0
HOST: Identity = 1
WORLD: Identity = 2
UNMANAGED: Identity = 3
HEALTH: Identity = 4
INIT: Identity = 5
REMOTE_NODE: Identity = 6
KUBE_APISERVER: Identity = 7
INGRESS: Identity = 8
FIRST: Identity = 256
"""Lowest number of a set of pod labels."""
LAST: Identity = 65535
LOCAL_FIRST: Identity = 0x01000001
"""Prefixes that policies name, numbered by each node for itself."""
LOCAL_LAST: Identity = 0x01FFFFFF
CLASS_FIRST: Identity = 0x03000001
"""Classes of ipBlocks, numbered within one policy map."""
CLASS_LAST: Identity = 0x03FFFFFF


def _reserved(*names: str) -> Labels:
    return MappingProxyType({security.key(security.RESERVED, name): "" for name in names})


NAMES: Mapping[Identity, str] = MappingProxyType(
    {
        UNKNOWN: "unknown",
        HOST: "host",
        WORLD: "world",
        UNMANAGED: "unmanaged",
        HEALTH: "health",
        INIT: "init",
        REMOTE_NODE: "remote-node",
        KUBE_APISERVER: "kube-apiserver",
        INGRESS: "ingress",
    }
)
RESERVED: Mapping[Identity, Labels] = MappingProxyType(
    {number: _reserved(name) for number, name in NAMES.items() if number != KUBE_APISERVER}
    | {KUBE_APISERVER: _reserved("kube-apiserver", "remote-node")}
)
"""Labels of the reserved identities."""
HOST_WITH_API_SERVER: Labels = _reserved("host", "kube-apiserver")
"""Labels of identity 1 on a node that runs the API server."""


def reserved_labels(number: Identity, *, api_server_here: bool = False) -> Labels:
    """Labels of a reserved identity. Raises KeyError for any other number."""
    return HOST_WITH_API_SERVER if number == HOST and api_server_here else RESERVED[number]


def cidr_labels(prefix: IPv4Network, *, api_server: bool = False) -> dict[str, str]:
    """Labels of a prefix outside the cluster; ``0.0.0.0/0`` is the world itself."""
    found = {"reserved:world": ""}
    if prefix.prefixlen:
        found[security.key(security.CIDR, str(prefix))] = ""
    if api_server:
        found["reserved:kube-apiserver"] = ""
    return found


def is_reserved(number: Identity) -> bool:
    return number in RESERVED


def is_label_identity(number: Identity) -> bool:
    """Whether the number stands for labels of pods, the same on every node."""
    return FIRST <= number <= LAST


def is_local(number: Identity) -> bool:
    """Whether the number stands for a prefix, on one node only."""
    return LOCAL_FIRST <= number <= LOCAL_LAST


def is_class(number: Identity) -> bool:
    """Whether the number stands for addresses of an ipBlock, in one policy map only."""
    return CLASS_FIRST <= number <= CLASS_LAST


def in_cluster(number: Identity) -> bool:
    """Whether its packets come from the cluster: neither the world nor a prefix. Unknown counts as not."""
    return number not in (UNKNOWN, WORLD) and number <= LAST


def candidate(labels: Labels, attempt: int = 0) -> Identity:
    """The number that these labels should have when ``attempt`` earlier ones were taken by other labels.
    Equal on every node."""
    digest = hashlib.sha256(f"{security.text(labels)}\0{attempt}".encode()).digest()
    return FIRST + int.from_bytes(digest[:8], "big") % (LAST - FIRST + 1)


def candidates(labels: Labels) -> Iterator[Identity]:
    """Numbers to try in this order, each once. Ends when there are no more."""
    seen: set[Identity] = set()
    attempt = 0
    while len(seen) <= LAST - FIRST and attempt < _MOST_ATTEMPTS:
        number = candidate(labels, attempt)
        attempt += 1
        if number not in seen:
            seen.add(number)
            yield number


_MOST_ATTEMPTS = 10 * (LAST - FIRST + 1)
