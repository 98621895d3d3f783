"""Laws of the parts that policies are compiled with."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.policy.cidr import divide, network
from podwire.policy.entries import Entries, Run
from podwire.policy.grants import meet
from podwire.policy.label_index import LabelIndex, bit_positions
from podwire.policy.model import Block, Direction, Labels, MapKey, MapValue, PortRange, Requirement, Selector
from podwire.policy.ports import PortPrefix, port_prefixes
from podwire.policy.selectors import matches

from . import strategies as some

LAST = 65535
TCP = 6
bounds = st.one_of(st.integers(0, LAST), st.sampled_from([0, 1, 2, 80, 81, 32767, 32768, 65534, LAST]))


@given(bounds, bounds)
def test_prefixes_of_ports_cover_exactly_the_range(one: int, other: int) -> None:
    first, last = sorted([one, other])
    found = list(port_prefixes(PortRange(TCP, first, last)))
    edge = first
    for ports in found:
        assert (ports.protocol, ports.port) == (TCP, edge)
        assert ports.port % (1 << (16 - ports.length)) == 0
        edge += 1 << (16 - ports.length)
    assert edge == last + 1
    assert len(found) <= 30


@pytest.mark.parametrize("ports", [PortRange(TCP, 81, 80), PortRange(TCP, 0, 65536), PortRange(TCP, -1, 2)])
def test_what_is_no_range_is_refused(ports: PortRange) -> None:
    with pytest.raises(ValueError, match="no range of ports"):
        list(port_prefixes(ports))


def test_ports_belong_to_a_protocol() -> None:
    with pytest.raises(ValueError, match="needs a protocol"):
        list(port_prefixes(PortRange(0, 80, 80)))


@given(st.integers(0, 1 << 200))
def test_bit_positions(bits: int) -> None:
    assert sum(1 << position for position in bit_positions(bits)) == bits


@given(st.dictionaries(st.integers(1, (1 << 40) - 1), st.integers(1, 255), max_size=8))
def test_sets_meet_at_each_identity_once(terms: dict[int, int]) -> None:
    expected = {}
    for slot in range(40):
        grants = 0
        for identities, granted in terms.items():
            grants |= granted if identities >> slot & 1 else 0
        if grants:
            expected[slot] = grants
    found = {slot: grants for grants, slots in meet(terms).items() for slot in bit_positions(slots)}
    assert found == expected
    assert sum(slots.bit_count() for slots in meet(terms).values()) == len(expected)


@given(st.lists(some.blocks(), max_size=6))
def test_borders_tell_which_blocks_mean_an_address(blocks: list[Block]) -> None:
    borders = {network(prefix): members for prefix, members in divide(blocks).items()}
    for address in [*some.ZONE, IPv4Address("10.0.1.0"), IPv4Address("192.0.2.1")]:
        expected = sum(
            1 << place
            for place, block in enumerate(blocks)
            if address in block.prefix and not any(address in one for one in block.excepted)
        )
        holding = [prefix for prefix in borders if address in prefix]
        found = borders[max(holding, key=lambda prefix: prefix.prefixlen)] if holding else 0
        assert found == expected


def test_an_except_wider_than_its_block_leaves_nothing() -> None:
    inner, outer = IPv4Network("10.0.0.0/24"), IPv4Network("10.0.0.0/16")
    assert divide([Block(inner, (outer,))]) == {}
    assert divide([Block(inner, (inner,))]) == {}


labels_of_pods = st.dictionaries(
    st.sampled_from(["k8s:app", "container:app", "k8s:tier", "reserved:host"]),
    st.sampled_from(["web", "cli", "x", ""]),
)


@given(st.lists(labels_of_pods, min_size=1, max_size=6), some.selectors, st.integers(0, 5))
def test_the_index_selects_what_selectors_match(
    identities: list[Labels], selector: Selector, gone: int
) -> None:
    index = LabelIndex()
    for slot, labels in enumerate(identities):
        index.add(slot, labels)
    present = dict(enumerate(identities))
    if gone in present:
        index.remove(gone, present.pop(gone))
    expected = {slot for slot, labels in present.items() if matches(selector, labels)}
    assert set(bit_positions(index.select(selector))) == expected


def test_an_index_forgets_what_nobody_has() -> None:
    index = LabelIndex()
    index.add(3, {"k8s:app": "web", "container:app": "web"})
    index.remove(3, {"k8s:app": "web", "container:app": "web"})
    index.add(3, {"k8s:tier": "x"})
    assert index.having("any:app") == 0
    assert index.select(Selector((Requirement("any:app", some.Operator.EXISTS),))) == 0


run_values = st.dictionaries(
    st.sampled_from([PortPrefix(0, 0, 0), PortPrefix(TCP, 80, 16), PortPrefix(17, 0, 0)]),
    st.builds(MapValue, st.booleans(), st.integers(1, 3)),
    min_size=1,
)
runs = st.lists(
    st.tuples(st.sampled_from(Direction), st.integers(0, 3), run_values), unique_by=lambda run: run[:2]
).map(
    lambda found: [
        Run(direction, [10 * n, 10 * n + 1], tuple(sorted(v.items()))) for direction, n, v in found
    ]
)


@given(runs)
def test_entries_are_a_mapping(given_runs: list[Run]) -> None:
    plain = {
        MapKey(run.direction, identity, *ports): value
        for run in given_runs
        for ports, value in run.values
        for identity in run.identities
    }
    entries = Entries(given_runs)
    assert dict(entries.items()) == plain
    assert list(entries) == list(entries.keys()) == [key for key, _ in entries.items()]
    assert list(entries.values()) == list(dict(entries.items()).values())
    assert len(entries) == len(plain)
    assert all(entries[key] == value for key, value in plain.items())
    assert entries == plain and plain == entries and entries == Entries(given_runs)
    for absent in (MapKey(Direction.INGRESS, 99), MapKey(Direction.INGRESS, 0, TCP, 81, 16)):
        assert absent not in entries
    with pytest.raises(KeyError):
        entries[MapKey(Direction.EGRESS, 77)]
    if plain:
        assert entries != Entries(given_runs[1:])
