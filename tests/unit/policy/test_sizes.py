"""Ten thousand rules for one endpoint: no case may cost the square of their number."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Network

import pytest

from podwire.policy.compile import compile_policy
from podwire.policy.model import (
    Block,
    Cidr,
    Direction,
    Endpoints,
    Entry,
    Origin,
    PortRange,
    Rule,
    Selector,
    Subject,
)
from podwire.policy.selectors import from_labels
from podwire.policy.world import World

NUMBER = 10_000
LIMIT = 10.0
"""Seconds of the processor's time: it takes less than one, and the square would take minutes."""
EVERYWHERE = IPv4Network("0.0.0.0/0")
PREFIXES = [IPv4Network((0x0A000000 + place * 256, 24)) for place in range(NUMBER)]


def peers(label: str, of: int) -> Callable[[int], Entry]:
    def entry(place: int) -> Entry:
        selector = from_labels({f"k8s:{label}": f"{label}-{place % of}"})
        return Entry(
            Direction.INGRESS,
            (Endpoints(selector),),
            (PortRange(6, place, place),),
            place % 3 == 0,
            str(place),
        )

    return entry


def prefix(place: int) -> Entry:
    return Entry(Direction.EGRESS, (Cidr(PREFIXES[place]),), (PortRange(6, place, place),), False, str(place))


def all_but_one(place: int) -> Entry:
    return Entry(Direction.EGRESS, (Cidr(EVERYWHERE, (PREFIXES[place],)),), None, False, str(place))


def block(place: int) -> Entry:
    return Entry(
        Direction.EGRESS, (Block(PREFIXES[place]),), (PortRange(6, place, place),), False, str(place)
    )


def block_but_one(place: int) -> Entry:
    return Entry(Direction.EGRESS, (Block(EVERYWHERE, (PREFIXES[place],)),), None, False, str(place))


def ranges(place: int) -> Entry:
    return Entry(Direction.INGRESS, None, (PortRange(6, place, 60_000),), place % 3 == 0, str(place))


LOCALHOST = 1
GROUPS = sum(len(range(tier, NUMBER, 7)) * len(range(tier, 1000, 7)) for tier in range(7))
CASES: dict[str, tuple[Callable[[int], Entry], int]] = {
    "a peer and a port each": (peers("app", 1000), NUMBER + LOCALHOST),
    "groups of peers, a port each": (peers("tier", 7), GROUPS + LOCALHOST),
    "nobody": (peers("nosuch", NUMBER), LOCALHOST),
    "a prefix and a port each": (prefix, NUMBER + LOCALHOST),
    "all prefixes but one": (all_but_one, NUMBER + 1 + LOCALHOST),
    "a block and a port each": (block, 2 * NUMBER + LOCALHOST),
    # Everywhere by the first rule, in its hole by the second: two borders, two classes.
    "all blocks but one": (block_but_one, 4 + LOCALHOST),
    # The first rule denies everything that the others mean.
    "ports in each other": (ranges, (60_001).bit_count() + LOCALHOST),
}


@pytest.mark.parametrize("name", CASES)
def test_ten_thousand_rules_compile_in_time(name: str) -> None:
    make, entries = CASES[name]
    world = World(
        {256 + place: {"k8s:app": f"app-{place}", "k8s:tier": f"tier-{place % 7}"} for place in range(1000)},
        {one: 0x01000001 + place for place, one in enumerate(PREFIXES)},
    )
    said = tuple(make(place) for place in range(NUMBER))
    rule = Rule(Origin("Test", "", "large"), Selector(), said, frozenset(Direction))
    start = time.process_time()
    compiled = compile_policy(Subject(256, {}), [rule], world)
    assert time.process_time() - start < LIMIT
    assert compiled.size == entries
