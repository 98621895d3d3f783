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


def wider(ports: PortPrefix) -> Iterator[PortPrefix]:
    """Yield all prefixes that contain ``ports``, the next wider one first, without itself."""
    if ports.protocol == PROTOCOL_ANY:
        return
    for length in range(ports.length - 1, -1, -1):
        keep = LAST_PORT << (PORT_BITS - length) & LAST_PORT
        yield PortPrefix(ports.protocol, ports.port & keep, length)
    yield EVERYTHING


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
    return tuple(
        Verdict(ports, not allow, reason)
        for ports, (allow, reason) in sorted(said.items())
        if not _covered(ports, allow, said)
    )


def _covered(ports: PortPrefix, allow: bool, said: dict[PortPrefix, tuple[bool, str]]) -> bool:
    for outer in wider(ports):
        above = said.get(outer)
        if above is not None and (allow or not above[0]):
            return True
    return False
