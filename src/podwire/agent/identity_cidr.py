"""Numbers of prefixes outside the cluster: this node's own, the same across restarts of the agent while they
are used. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network

from podwire.policy.identity import LOCAL_FIRST, LOCAL_LAST, WORLD, is_local

EVERYWHERE = IPv4Network("0.0.0.0/0")


class CidrNumbers:
    """Prefix -> number. A number that became free is the last to be given again. Not thread-safe."""

    def __init__(self, known: Mapping[IPv4Network, int] | None = None) -> None:
        """``known``: what an earlier agent had given."""
        self._numbers: dict[IPv4Network, int] = {}
        taken: set[int] = set()
        for prefix, number in (known or {}).items():
            if is_local(number) and number not in taken:
                self._numbers[prefix] = number
                taken.add(number)
        self._next = max(taken, default=LOCAL_FIRST - 1) + 1

    def set_wanted(self, prefixes: Iterable[IPv4Network]) -> bool:
        """Have numbers for exactly these; True when any came or went. 0.0.0.0/0 is the world itself and needs
        none."""
        wanted = {prefix for prefix in prefixes if prefix != EVERYWHERE}
        if wanted == self._numbers.keys():
            return False
        self._numbers = {prefix: number for prefix, number in self._numbers.items() if prefix in wanted}
        taken = set(self._numbers.values())
        for prefix in sorted(wanted - self._numbers.keys()):
            while self._next in taken or self._next > LOCAL_LAST:
                self._next = self._next + 1 if self._next < LOCAL_LAST else LOCAL_FIRST
            self._numbers[prefix] = self._next
            self._next += 1
        return True

    def numbers(self) -> dict[IPv4Network, int]:
        return dict(self._numbers)


def number_of(numbers: Mapping[IPv4Network, int], prefix: IPv4Network) -> int:
    """The number of the longest of these prefixes that covers ``prefix``; the world's where none does."""
    for length in range(prefix.prefixlen, 0, -1):
        found = numbers.get(prefix.supernet(new_prefix=length))
        if found is not None:
            return found
    return WORLD
