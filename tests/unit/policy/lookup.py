"""The datapath's decision over a policy map, bit by bit: a longest-prefix match and three look-ups.

Knows keys as the kernel has them (64 compared bits), nothing of rules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from ipaddress import IPv4Address

from podwire.policy.model import Compiled, Direction, MapKey, MapValue

ALLOWED = 0
POLICY_DENIED = 133
POLICY_DENY = 181


@dataclass(frozen=True)
class Found:
    """A decision and what made it."""

    verdict: int
    key: MapKey | None = None
    reason: str = ""


class PolicyMap:
    """One policy map, filled with what was compiled."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        # By the bits that are always compared in full, as the trie's first levels.
        self._entries: defaultdict[int, list[tuple[int, int, MapKey, MapValue]]] = defaultdict(list)
        for key, value in compiled.entries.items():
            length = 40
            if key.protocol:
                length = 48 + key.port_prefix
            else:
                assert key.port_prefix == 0 and key.port == 0, key
            assert 0 <= key.port_prefix <= 16
            assert key.port & (0xFFFF >> key.port_prefix) == 0, f"{key} is not aligned"
            bits = self._bits(key.identity, key.direction, key.protocol, key.port)
            self._entries[bits >> 24].append((length, bits, key, value))

    @staticmethod
    def _bits(identity: int, direction: Direction, protocol: int, port: int) -> int:
        return identity << 32 | int(direction) << 24 | protocol << 16 | port

    def longest(
        self, identity: int, direction: Direction, protocol: int, port: int
    ) -> tuple[MapKey, MapValue] | None:
        """Return the longest match."""
        wanted = self._bits(identity, direction, protocol, port)
        best = None
        for length, bits, key, value in self._entries.get(wanted >> 24, ()):
            if (bits ^ wanted) >> (64 - length) == 0 and (best is None or length > best[0]):
                best = length, key, value
        return None if best is None else best[1:]

    def decide(
        self, direction: Direction, identity: int, address: IPv4Address, protocol: int, port: int
    ) -> Found:
        """Return the verdict for the first packet of a connection with this peer."""
        found = [
            self.longest(identity, direction, protocol, port),
            self.longest(0, direction, protocol, port),
        ]
        matched = [one for one in found if one is not None]
        if not matched:
            of_class = self._class(direction, address)
            if of_class is not None:
                matched = [
                    one for one in [self.longest(of_class, direction, protocol, port)] if one is not None
                ]
        for key, value in sorted(matched, key=lambda one: not one[1].deny):
            reason = self._compiled.reasons[value.rule - 1] if value.rule else ""
            return Found(POLICY_DENY if value.deny else ALLOWED, key, reason)
        return Found(POLICY_DENIED)

    def _class(self, direction: Direction, address: IPv4Address) -> int | None:
        best = None
        for key, number in self._compiled.blocks.items():
            length = key.prefix.prefixlen
            if key.direction is direction and address in key.prefix and (best is None or length > best[0]):
                best = length, number
        return None if best is None else best[1]
