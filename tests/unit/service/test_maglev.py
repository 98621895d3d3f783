"""Tables spread evenly, and few flows move when a backend leaves or comes."""

from __future__ import annotations

from collections import Counter

import pytest

from podwire.service.maglev import SIZES, is_prime, table
from podwire.service.model import Backend


def backends(count: int) -> list[Backend]:
    return [Backend(f"10.1.{number // 250}.{number % 250 + 1}", 8080) for number in range(count)]


def owners(members: list[Backend], size: int) -> list[Backend]:
    return [members[index] for index in table(members, size)]


@pytest.mark.parametrize("size", [16381, 65537])
@pytest.mark.parametrize("count", [2, 10, 100])
def test_every_backend_gets_its_share(size: int, count: int) -> None:
    shares = Counter(table(backends(count), size))
    assert len(shares) == count
    assert max(shares.values()) < 1.02 * size / count
    assert min(shares.values()) > 0.98 * size / count


@pytest.mark.parametrize(("size", "percent"), [(16381, 3), (65537, 2)])
@pytest.mark.parametrize("gone", [0, 17, 50, 99])
def test_few_flows_move_when_one_of_100_leaves(size: int, percent: int, gone: int) -> None:
    members = backends(100)
    before = owners(members, size)
    after = owners(members[:gone] + members[gone + 1 :], size)
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert moved <= size * percent / 100  # the leaver's own flows included
    assert members[gone] not in after


def test_every_node_builds_the_same_table() -> None:
    members = backends(10)
    assert owners(members, 251) == owners(members[::-1], 251)


def test_a_table_is_the_same_for_ever() -> None:
    """Agents of different versions must agree while a cluster is upgraded."""
    assert list(table(backends(3), 13)) == [0, 1, 1, 1, 2, 2, 0, 0, 2, 1, 2, 0, 1]


def test_one_backend_gets_everything() -> None:
    assert set(table(backends(1), 251)) == {0}


def test_more_backends_than_slots() -> None:
    assert len(set(table(backends(20), 13))) == 13


@pytest.mark.parametrize("size", [0, 1, 2 * 251, -3])
def test_a_size_that_is_no_prime_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="must be a prime"):
        table(backends(2), size)


def test_no_backends_are_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 65536 backends"):
        table([])


def test_the_sizes_on_offer_are_primes() -> None:
    assert all(map(is_prime, SIZES))
