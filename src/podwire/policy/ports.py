"""Ports of rules as aligned prefixes, the only ranges that a longest-prefix match knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from podwire.policy.model import PROTOCOL_ANY, PortRange

PORT_BITS = 16
LAST_PORT = (1 << PORT_BITS) - 1


class PortPrefix(NamedTuple):
    """Ports of a protocol that agree in their leading bits: what a policy map's entry can name."""

    protocol: int
    """PROTOCOL_ANY: every protocol and port, the two other members are 0 then."""
    port: int
    """First port; ICMP: the type."""
    length: int
    """Leading bits that must agree, 0 to 16."""


EVERYTHING = PortPrefix(PROTOCOL_ANY, 0, 0)


class Grant(NamedTuple):
    """What one entry of a rule says about some ports, without its peers."""

    ports: tuple[PortPrefix, ...]
    deny: bool
    reason: str
    """The entry's place, for people."""


class Verdict(NamedTuple):
    """What holds for a prefix of ports, unless a longer one is there."""

    ports: PortPrefix
    deny: bool
    reason: str


Verdicts: TypeAlias = tuple[Verdict, ...]
"""Sorted by ports, no ports twice."""


def port_prefixes(ports: PortRange) -> Iterator[PortPrefix]:
    """Yield the fewest prefixes that cover ``ports`` exactly, ascending; at most 30.

    ValueError: not a range of ports, or a range of all protocols."""
    if ports.protocol == PROTOCOL_ANY:
        raise ValueError("a range of ports needs a protocol")
    if not 0 <= ports.first <= ports.last <= LAST_PORT:
        raise ValueError(f"{ports.first}-{ports.last} is no range of ports")
    first = ports.first
    while first <= ports.last:
        free = PORT_BITS if first == 0 else (first & -first).bit_length() - 1
        free = min(free, (ports.last - first + 1).bit_length() - 1)
        yield PortPrefix(ports.protocol, first, PORT_BITS - free)
        first += 1 << free


def normalise(grants: Iterable[Grant]) -> Verdicts:
    """Verdicts whose longest match for any protocol and port says what ``grants`` mean together.

    Deny wins over allow, however narrow the allow is: what stands within a deny vanishes, and so does an
    allow within an allow. Of several reasons for the same ports the first in alphabetical order is kept."""
    said: dict[PortPrefix, tuple[bool, str]] = {}
    for grant in grants:
        # Smaller is stronger: a deny before an allow, then by name.
        candidate = (not grant.deny, grant.reason)
        for ports in grant.ports:
            known = said.get(ports)
            if known is None or candidate < known:
                said[ports] = candidate
    if len(said) == 1:
        ((ports, (allow, reason)),) = said.items()
        return (Verdict(ports, not allow, reason),)
    result: list[Verdict] = []
    around: list[Verdict] = []
    for ports, (allow, reason) in sorted(said.items()):
        # In this order wide prefixes come before those within them.
        while around and not _within(ports, around[-1].ports):
            around.pop()
        if not around or not (allow or around[-1].deny):
            result.append(Verdict(ports, not allow, reason))
            around.append(result[-1])
    return tuple(result)


def _within(inner: PortPrefix, outer: PortPrefix) -> bool:
    if outer[0] == PROTOCOL_ANY:
        return True
    return inner[0] == outer[0] and (inner[1] ^ outer[1]) >> (PORT_BITS - outer[2]) == 0
