"""Hand out the addresses of a node's podCIDR, and the datapath's revision slots. Pure: no I/O, no clock.

Nothing is stored here for good: at start the pools are told what the persisted endpoints hold, so an address
can neither leak nor be given twice. Both pools move forward from the last value they gave (next fit), so a
value that was just released is the last to be used again: conntrack entries, ARP caches and clients get time
to forget it."""

from __future__ import annotations

import ipaddress


class Exhausted(Exception):  # noqa: N818 - reads as what is wrong
    """Nothing is free. The message names the pool and the way out."""


class NumberPool:
    """The numbers ``first`` to ``last``, each given to at most one owner."""

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._last = last
        self._used: set[int] = set()
        self._next = first

    @property
    def size(self) -> int:
        return max(0, self._last - self._first + 1)

    @property
    def used(self) -> int:
        """How many numbers of the range are taken."""
        return sum(1 for number in self._used if self._first <= number <= self._last)

    def take(self, number: int) -> None:
        """Mark a number as taken. It may lie outside the range: an endpoint can outlive a changed podCIDR."""
        self._used.add(number)

    def holds(self, number: int) -> bool:
        return number in self._used

    def allocate(self) -> int | None:
        """A free number, or None when there is none."""
        for start, stop in ((self._next, self._last + 1), (self._first, self._next)):
            for number in range(start, stop):
                if number not in self._used:
                    self._used.add(number)
                    self._next = number + 1 if number < self._last else self._first
                    return number
        return None

    def release(self, number: int) -> None:
        self._used.discard(number)


class AddressPool:
    """Pod addresses of one podCIDR: all of it but the network address, the health address and the last
    one."""

    def __init__(self, cidr: str) -> None:
        """``cidr`` is an IPv4 network of at most 30 prefix bits.

        Raises ValueError when it is not."""
        network = ipaddress.IPv4Network(cidr)
        if network.prefixlen > 30:
            raise ValueError(f"podCIDR {cidr} is too small: at least a /30 is needed")
        self.cidr = str(network)
        base = int(network.network_address)
        self.health_address = str(ipaddress.IPv4Address(base + 1))
        self._pool = NumberPool(base + 2, base + network.num_addresses - 2)

    @property
    def size(self) -> int:
        return self._pool.size

    @property
    def used(self) -> int:
        return self._pool.used

    def take(self, address: str) -> None:
        """Mark the address of a persisted endpoint as taken."""
        self._pool.take(int(ipaddress.IPv4Address(address)))

    def allocate(self) -> str:
        """A free address.

        Raises Exhausted when every address is taken."""
        number = self._pool.allocate()
        if number is None:
            raise Exhausted(
                f"no address left in podCIDR {self.cidr}: all {self.size} are taken by pods of this node "
                "(see `podwire endpoint list`); lower the kubelet's max-pods or give nodes a larger podCIDR"
            )
        return str(ipaddress.IPv4Address(number))

    def release(self, address: str) -> None:
        self._pool.release(int(ipaddress.IPv4Address(address)))


class SlotPool:
    """Revision slots of the datapath. Slot 0 means "no local endpoint" and is never given."""

    def __init__(self, count: int) -> None:
        """``count`` is the number of entries of the datapath's slot array, slot 0 included."""
        self._pool = NumberPool(1, count - 1)

    def take(self, slot: int) -> None:
        self._pool.take(slot)

    def holds(self, slot: int) -> bool:
        return self._pool.holds(slot)

    def allocate(self) -> int:
        """A free slot.

        Raises Exhausted when every slot is taken."""
        slot = self._pool.allocate()
        if slot is None:
            raise Exhausted(
                f"no datapath slot left: map podwire_slots has room for {self._pool.size} endpoints; "
                "load the datapath with a larger one (map_entries) or run fewer pods here"
            )
        return slot

    def release(self, slot: int) -> None:
        self._pool.release(slot)
