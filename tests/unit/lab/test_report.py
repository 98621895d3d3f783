"""The table at the end."""

import pytest

from lab.progress import duration
from lab.report import node_row

STATUS = {
    "ready": True,
    "reasons": [],
    "datapath": {
        "mode": "ebpf",
        "reason": "",
        "attach": "tcx",
        "programs": [{"name": "podwire_to_pod"}, {"name": "podwire_from_pod"}],
    },
    "ipam": {"pod_cidr": "10.1.1.0/24"},
}


def test_row_of_a_ready_node():
    assert node_row("cp1", "172.30.1.11", STATUS) == [
        "cp1", "172.30.1.11", "ready", "ebpf", "tcx", "from_pod, to_pod", "10.1.1.0/24"
    ]  # fmt: skip


def test_row_says_why_a_node_is_not_ready_or_in_another_mode():
    status = {
        **STATUS,
        "ready": False,
        "reasons": ["no podCIDR"],
        "datapath": {"mode": "legacy", "reason": "kernel lacks x"},
    }
    row = node_row("cp1", "172.30.1.11", status)
    assert row[2] == "NOT READY: no podCIDR"
    assert row[3] == "legacy (kernel lacks x)"
    assert row[5] == "none"


def test_row_of_a_node_without_agent():
    assert "connection refused" in node_row("cp1", "a", {"error": "connection refused"})[2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.34, "0.3 s"), (12.4, "12 s"), (60, "1 min 00 s"), (185, "3 min 05 s")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
