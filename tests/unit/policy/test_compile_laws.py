"""For any rules: what the datapath looks up in the compiled map is what the rules mean."""

from __future__ import annotations

from hypothesis import given, note, settings
from hypothesis import strategies as st

from podwire.policy.compile import compile_policy
from podwire.policy.model import (
    Direction,
    Enforcement,
    Rule,
)

from . import strategies as some
from .cluster import Judges


@settings(max_examples=150)
@given(
    st.lists(some.rules(), max_size=5),
    st.sampled_from(some.SUBJECTS),
    st.sampled_from([Enforcement.DEFAULT, Enforcement.DEFAULT, Enforcement.ALWAYS, Enforcement.NEVER]),
)
def test_the_map_says_what_the_rules_mean(rules: list[Rule], name: str, enforcement: Enforcement) -> None:
    cluster = some.CLUSTER
    compiled = compile_policy(cluster.subject(name), rules, cluster.world(rules), enforcement)
    judges = Judges(cluster, name, tuple(rules), enforcement, compiled)
    for peer in cluster.parties:
        for direction in Direction:
            for protocol, port in some.PROBES:
                expected = judges.by_reference(direction, peer, protocol, port)
                found = judges.by_datapath(direction, peer, protocol, port)
                if found.verdict != expected:
                    note(f"{direction.name} {peer} {protocol}/{port}: {found}, expected {expected}")
                    note(f"{compiled}")
                assert found.verdict == expected
