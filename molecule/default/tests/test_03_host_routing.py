"""Switching host routing on a cluster in use: no transaction fails, and counters prove the mode."""

from __future__ import annotations

import re

import pytest

from tests.e2e.support import finished

LOAD_SECONDS = 60


def forwarded_by_netfilter(on_node, node: str) -> int:
    """Pod packets in netfilter's FORWARD hook, from the kernel's own counter."""
    shown = on_node(node, "nft list counter inet podwire forward_pods")
    return int(re.search(r"packets (\d+)", shown)[1])


@pytest.mark.parametrize("mode", ["legacy", "ebpf"])
def test_switch_under_load(mode: str, pods, on_node, agent, playbook) -> None:
    source, target = pods.on("worker1")[0], pods.on("worker2")[0]
    world = pods.lab.address("world")
    running = [
        pods.start(source, f"netperf -H {target.address} -t TCP_RR -l {LOAD_SECONDS}"),
        pods.start(source, f"netperf -H {target.address} -t TCP_CRR -l {LOAD_SECONDS}"),
        # Counted, not timed: a deadline would count the last one, still under way, as lost.
        pods.start(source, f"ping -q -i 0.02 -c {LOAD_SECONDS * 50} -W 2 {target.address}"),
        pods.start(source, f"ping -q -i 0.02 -c {LOAD_SECONDS * 50} -W 2 {world}"),
    ]
    played = playbook("playbooks/host_routing.yml", "-e", f"podwire_host_routing={mode}")
    assert played.status == 0, played.output
    assert set(played.changed.values()) == {1}, played.output
    assert all(process.poll() is None for process in running), "the load ended before the switch did"
    for process in running[:2]:
        assert re.search(r"\d+\.\d+\s*$", finished(process, LOAD_SECONDS + 30), re.MULTILINE)
    for process in running[2:]:
        assert " 0% packet loss" in finished(process, LOAD_SECONDS + 30)
    for node in pods.lab.nodes:
        assert agent(node, "/v1/status")["datapath"]["mode"] == mode


@pytest.mark.parametrize("mode", ["ebpf", "legacy"])
def test_counters_prove_the_mode(mode: str, pods, on_node, playbook) -> None:
    """200 pings between two nodes: all of them are in netfilter's hook on both, or none is."""
    assert playbook("playbooks/host_routing.yml", "-e", f"podwire_host_routing={mode}").status == 0
    source, target = pods.on("worker1")[0], pods.on("worker2")[0]
    before = {node: forwarded_by_netfilter(on_node, node) for node in ("worker1", "worker2")}
    pods.run(source, f"ping -q -i 0.002 -c 200 {target.address}")
    for node, packets in before.items():
        seen = forwarded_by_netfilter(on_node, node) - packets
        # Probes of the agents add a few in legacy mode; services a few in either.
        assert seen >= 400 if mode == "legacy" else seen < 100, f"{node}: {seen} packets"


def test_second_run_changes_nothing(playbook) -> None:
    played = playbook("playbooks/host_routing.yml", "-e", "podwire_host_routing=legacy")
    assert (played.status, set(played.changed.values())) == (0, {0}), played.output


def test_a_rollout_leaves_the_chosen_mode_alone(playbook, agent, lab) -> None:
    """The inventory says ebpf for new nodes; these were switched to legacy."""
    played = playbook("site.yml", "--check", "--diff")
    assert (played.status, set(played.changed.values())) == (0, {0}), played.output
    assert {agent(node, "/v1/status")["datapath"]["mode"] for node in lab.nodes} == {"legacy"}


def test_back_to_ebpf(playbook) -> None:
    assert playbook("playbooks/host_routing.yml", "-e", "podwire_host_routing=ebpf").status == 0
