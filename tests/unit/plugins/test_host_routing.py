"""What the counters say about the host-routing mode."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.host_routing import Counters, counters_of, judge


@pytest.mark.parametrize(
    ("mode", "seen", "proved"),
    [
        pytest.param("ebpf", Counters(12, 0, 0, 0), True, id="all redirected, none in the hook"),
        pytest.param("ebpf", Counters(12, 0, 9, 7), True, id="services pass the hook in either mode"),
        pytest.param("ebpf", Counters(12, 0, 2, 7), False, id="more in the hook than services explain"),
        pytest.param("ebpf", Counters(12, 3, 0, 3), False, id="some went through the stack"),
        pytest.param("ebpf", Counters(0, 12, 0, 12), False, id="nothing redirected"),
        pytest.param("ebpf", Counters(0, 0, 4, 0), None, id="one node: nothing to see"),
        pytest.param("legacy", Counters(0, 12, 0, 12), True, id="all in the hook, none redirected"),
        pytest.param("legacy", Counters(5, 12, 0, 12), False, id="some redirected"),
        pytest.param("legacy", Counters(0, 0, 4, 0), None, id="one node, legacy: nothing to see"),
        pytest.param("ebpf", Counters(12, 0, 0, None), None, id="no netfilter to ask"),
    ],
)
def test_judge(mode: str, seen: Counters, proved: bool | None) -> None:
    assert judge(mode, seen).proved is proved


def test_counters_are_differences_of_named_deliveries() -> None:
    def counters(peer: int, stack: int, forward: int) -> Counters:
        metrics = {
            "forwarded": {"peer": {"packets": peer, "bytes": 1}, "stack": {"packets": stack, "bytes": 1}}
        }
        return counters_of(metrics, {"netfilter_forward_packets": forward})

    assert counters(15, 4, 40).since(counters(5, 4, 30)) == Counters(10, 0, 0, 10)


def test_a_node_that_cannot_count_in_netfilter_has_no_number_there() -> None:
    unknown = counters_of(
        {}, {"netfilter_forward_packets": None, "netfilter_problem": "nft is not installed"}
    )
    assert unknown.since(Counters(0, 0, 0, 5)).netfilter is None
