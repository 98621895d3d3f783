"""A rollout stops at a node that is not healthy and leaves the others alone."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def worker1_cannot_ping_cp1(lab, on_node, agent):
    """cp1 does not answer the probes of worker1's pods."""
    prefix = agent("worker1", "/v1/status")["ipam"]["pod_cidr"]
    rule = f"INPUT -p icmp -s {prefix} -j DROP"
    on_node("cp1", f"iptables -I {rule}")
    yield
    on_node("cp1", f"iptables -D {rule}")


def level(on_node, node: str) -> str:
    return on_node(node, "grep log_level /etc/podwire/agent.yaml").split()[1].strip('"')


def test_stops_at_the_first_node_whose_gate_stays_shut(worker1_cannot_ping_cp1, on_node, playbook) -> None:
    played = playbook(
        "site.yml",
        "-e",
        "podwire_serial=1",
        "-e",
        "podwire_log_level=DEBUG",
        "-e",
        "podwire_health_timeout=3",
    )
    assert played.status != 0
    assert "node:cp1: no answer from" in played.output
    assert [level(on_node, node) for node in ("cp1", "worker1", "worker2")] == ["debug", "debug", "info"]


def test_goes_on_once_the_cause_is_gone(on_node, playbook, lab) -> None:
    played = playbook("site.yml")
    assert played.status == 0, played.output
    assert played.changed["worker2"] == 0
    assert {level(on_node, node) for node in lab.nodes} == {"info"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"podwire_pod_cidr": "172.30.0.0/16"}, "overlaps", id="pods where the nodes are"),
        pytest.param({"podwire_host_routing": "fast"}, "podwire_host_routing is 'fast'", id="unknown mode"),
        pytest.param({"podwire_service_cidr": "10.152.183.7/24"}, "has host bits set", id="not a network"),
        pytest.param({"podwire_kernel_min": "99.0"}, "needs 99.0 or newer", id="kernel too old"),
        pytest.param({"podwire_min_free_mib": 99999999}, "Make room there", id="disk full"),
        pytest.param(
            {"podwire_required_commands": ["no-such-thing"]}, "lacks no-such-thing", id="no command"
        ),
    ],
)
def test_refuses_before_anything_is_touched(variables: dict[str, object], said: str, playbook) -> None:
    played = playbook("site.yml", "-e", json.dumps(variables))
    assert played.status != 0
    assert said in " ".join(played.output.split())
    assert set(played.changed.values()) == {0}
