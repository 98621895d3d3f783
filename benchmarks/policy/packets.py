"""Nanoseconds per packet under policies: ``python -m benchmarks.policy.packets`` (root) prints JSON.

The datapath's own programs run on packets (BPF_PROG_TEST_RUN) between two pods of a node that both have a
policy; the kernel takes the time (kernel.bpf_stats_enabled). Compared are: no policy, one policy, 500
policies over 1,000 identities, and full tries of 16,384 entries. An established connection takes the fast
path, which asks no policy; the first packet of each of many flows is judged at both ends. All kinds take
turns, so that a noisy machine is as noisy for each; figures are medians of rounds."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from scapy.layers.l2 import Ether

from podwire.bpf import Program
from tests.bpf import policies as p
from tests.bpf.node import POD_A, POD_B, Node, device_index, make_devices, private_netns
from tests.bpf.objects import compile_objects
from tests.bpf.packets import of, tcp

PACKETS = 200
"""Of either sort in one turn."""
STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
IDENTITIES, POLICIES = 1000, 500
FULL = 16384
TARGET = 1.1
"""What 500 policies may cost, compared with one."""
RULES = {
    p.EGRESS: p.allow(p.EGRESS, p.B_ID, 6, 80, final=True),
    p.INGRESS: p.allow(p.INGRESS, p.A_ID, 6, 80, final=True),
}


def other_entries(count: int, ports: int, direction: int) -> list[p.Entry]:
    """Rules about other peers, whose numbers lie anywhere, as those of label sets do."""
    choice = random.Random(count * 2 + direction)  # noqa: S311 - the same each time
    peers = choice.sample([n for n in range(256, 65536) if n not in (p.A_ID, p.B_ID)], count)
    return [p.allow(direction, peer, 6, 1000 + port) for peer in peers for port in range(ports)]


def kinds(node: Node) -> dict[str, dict[int, int]]:
    """Numbers of the policies of both ends, by the name of what is compared."""
    many = [p.write(node, *other_entries(IDENTITIES // 100, 2, number % 2)) for number in range(POLICIES - 2)]
    assert len(many) == POLICIES - 2
    made: dict[str, dict[int, int]] = {"none": {p.EGRESS: 0, p.INGRESS: 0}}
    for name, peers, ports in (("one", 0, 0), ("many", IDENTITIES, 1), ("full", FULL // 16, 16)):
        made[name] = {
            direction: p.write(node, rule, *other_entries(peers, ports, direction)[: FULL - 1])
            for direction, rule in RULES.items()
        }
    return made


def measure(node: Node, packets: list[bytes]) -> float:
    """Nanoseconds for one packet from A to B, by the kernel's own count."""
    program, ctx = node.programs["from_pod"], {"ifindex": device_index(POD_A.device)}
    before = Program(os.dup(program.fd), "before").info
    for packet in packets:
        program.test_run(packet, ctx=ctx)
    after = Program(os.dup(program.fd), "after").info
    return (after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count)


def packets_of(flags: str, ports: range) -> list[bytes]:
    return [bytes(of(POD_A) / tcp(POD_A.address, POD_B.address, port, 80, flags)) for port in ports]


def run(node: Node, rounds: int) -> dict[str, Any]:
    data = packets_of("A", range(1024, 1025)) * PACKETS
    opening = packets_of("S", range(2000, 2000 + 32000))
    numbers = kinds(node)
    taken: dict[str, dict[str, list[float]]] = {name: {"established": [], "new": []} for name in numbers}
    turn = 0
    for _ in range(rounds):
        for name, policy in numbers.items():
            node.add(POD_A, identity=p.A_ID, policy=policy[p.EGRESS])
            node.add(POD_B, identity=p.B_ID, policy=policy[p.INGRESS])
            for packets in (data, opening[:20]):  # judged again, and caches warmed up
                measure(node, packets)
            first = turn * PACKETS % len(opening)
            turn += 1
            taken[name]["new"].append(measure(node, opening[first : first + PACKETS]))
            taken[name]["established"].append(measure(node, data))
            result = node.from_pod(Ether(data[0]))
            if result.reason is not None:
                raise SystemExit(f"the policy {name} refuses the benchmark's connection: {result.reason}")
    medians = {
        name: {kind: round(statistics.median(values), 1) for kind, values in of_kind.items()}
        for name, of_kind in taken.items()
    }
    one = medians["one"]
    ratios = {
        name: {kind: round(medians[name][kind] / one[kind], 3) for kind in one} for name in ("many", "full")
    }
    return {"nanoseconds_per_packet": medians, "ratio_to_one_policy": ratios}


@contextlib.contextmanager
def statistics_of_programs() -> Iterator[None]:
    """Have the kernel take the time of programs."""
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


@click.command(help=__doc__)
@click.option("--rounds", default=300, show_default=True, help="Turns of each kind.")
def main(rounds: int) -> None:
    json.dump(figures(rounds), sys.stdout, indent=2)
    print()


def figures(rounds: int) -> dict[str, Any]:
    """Return all figures, and what they were taken with."""
    with tempfile.TemporaryDirectory() as directory, private_netns():
        make_devices()
        objects = compile_objects(Path(directory))
        with statistics_of_programs(), Node(objects, cfg_event_rate=100) as node:
            result = run(node, rounds)
    parameters = {
        "policies": POLICIES, "identities": IDENTITIES, "entries_full": FULL, "rounds": rounds,
        "packets_per_turn": PACKETS,
    }  # fmt: skip
    return {"parameters": parameters, **result, "target_ratio": TARGET}


if __name__ == "__main__":
    main()
