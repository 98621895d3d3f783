"""Addresses and slots: never twice, never lost."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from podwire.agent.ipam import AddressPool, Exhausted, NumberPool, SlotPool


def test_network_health_and_last_address_are_never_given() -> None:
    pool = AddressPool("10.1.2.0/29")
    assert pool.health_address == "10.1.2.1"
    assert [pool.allocate() for _ in range(pool.size)] == [f"10.1.2.{n}" for n in range(2, 7)]


def test_exhaustion_names_the_range_and_the_way_out() -> None:
    pool = AddressPool("10.1.2.0/30")
    assert pool.allocate() == "10.1.2.2"
    with pytest.raises(Exhausted, match=r"10\.1\.2\.0/30.*max-pods"):
        pool.allocate()


def test_released_address_is_used_last() -> None:
    pool = AddressPool("10.1.2.0/29")
    first = pool.allocate()
    pool.release(first)
    assert [pool.allocate() for _ in range(pool.size)][-1] == first


def test_address_outside_the_range_is_remembered_but_not_counted() -> None:
    pool = AddressPool("10.1.2.0/29")
    pool.take("10.9.9.9")
    assert pool.used == 0
    pool.release("10.9.9.9")


@pytest.mark.parametrize("cidr", ["10.1.2.0/31", "10.1.2.0/32"])
def test_too_small_ranges_are_refused(cidr: str) -> None:
    with pytest.raises(ValueError, match="too small"):
        AddressPool(cidr)


def test_slot_zero_is_never_given() -> None:
    pool = SlotPool(3)
    assert [pool.allocate(), pool.allocate()] == [1, 2]
    with pytest.raises(Exhausted, match="podwire_slots"):
        pool.allocate()


@given(st.sets(st.integers(0, 20)), st.integers(0, 20))
def test_restored_numbers_are_not_given_again(taken: set[int], last: int) -> None:
    pool = NumberPool(0, last)
    for number in taken:
        pool.take(number)
    given_out = []
    while (number := pool.allocate()) is not None:
        given_out.append(number)
    assert sorted(given_out) == sorted(set(range(last + 1)) - taken)


class PoolMachine(RuleBasedStateMachine):
    """Any order of allocating and releasing keeps the pool and its owners in agreement."""

    held: Bundle[str] = Bundle("held")

    @initialize(prefix=st.integers(25, 30))
    def start(self, prefix: int) -> None:
        self.pool = AddressPool(f"192.168.7.0/{prefix}")
        self.owned: set[str] = set()

    @rule(target=held)
    def allocate(self) -> str:
        try:
            address = self.pool.allocate()
        except Exhausted:
            assert len(self.owned) == self.pool.size
            return ""
        assert address not in self.owned
        assert ipaddress.ip_address(address) in ipaddress.ip_network(self.pool.cidr)
        assert address != self.pool.health_address
        self.owned.add(address)
        return address

    @rule(address=consumes(held))
    def release(self, address: str) -> None:
        if address:
            self.pool.release(address)
            self.owned.discard(address)

    @invariant()
    def count_is_right(self) -> None:
        if hasattr(self, "pool"):
            assert self.pool.used == len(self.owned)


TestPool = PoolMachine.TestCase
