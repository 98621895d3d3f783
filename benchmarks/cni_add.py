#!/usr/bin/env python3
"""How long a pod waits for its network, and what the agent costs.

Runs the shipped CNI plugin and the agent with the real datapath in network namespaces; needs root, gcc and
clang. Prints a table, and the figures as JSON with --json. Repeat it with: python3 benchmarks/cni_add.py

With --kubernetes the agent follows a real kube-apiserver and serves services, as in a cluster."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "src"), str(REPOSITORY / "collections")]
sys.path.insert(0, str(REPOSITORY / "tests" / "integration"))

from agent.lab import Network, Node, eventually, finish  # noqa: E402
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache  # noqa: E402
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import build  # noqa: E402

from benchmarks.services import api, tools  # noqa: E402
from benchmarks.stopping import swept, unwind_on_signals  # noqa: E402
from lab.errors import LabError  # noqa: E402

SERVICE_CIDR = "10.202.0.0/16"
SERVICES = 100
BACKENDS = 10

TARGETS = {
    "add_one_p50_ms": 60.0,
    "add_parallel_p99_ms": 1500.0,
    "rss_100_pods_mib": 120.0,
    "start_to_serving_s": 3.0,
}
INTERVALS = {"resync_interval": 60.0, "health_interval": 10.0}


def timed(call: Any) -> float:
    """Milliseconds that ``call`` took."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def call(node: Node, command: str, name: str) -> None:
    code, answer = node.cni(command, name)
    assert code == 0, answer


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no resident memory")


def cpu_ms(pid: int) -> float:
    """Processor time the process has used, in milliseconds. A busy machine hardly changes it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def one_at_a_time(node: Node, count: int) -> tuple[list[float], list[float]]:
    """ADD and DEL, one call after the other."""
    adds, dels = [], []
    for number in range(count):
        name = f"s{number}"
        node.new_netns(name)
        adds.append(timed(lambda name=name: call(node, "ADD", name)))
        dels.append(timed(lambda name=name: call(node, "DEL", name)))
        node.remove_netns(name)
    return adds, dels


def in_parallel(node: Node, count: int, keep: bool, prefix: str) -> list[float]:
    """``count`` ADDs started at the same moment, each timed from that moment to its answer."""
    names = [f"{prefix}{number}" for number in range(count)]
    for name in names:
        node.new_netns(name)
    start = time.perf_counter()
    processes = [node.cni_process("ADD", name, node.cni_config()) for name in names]

    def wait(process: subprocess.Popen[str]) -> float:
        code, answer = finish(process)
        took = (time.perf_counter() - start) * 1000
        assert code == 0, answer
        return took

    with ThreadPoolExecutor(count) as pool:
        times = list(pool.map(wait, processes))
    if not keep:
        for name in names:
            node.delete(name)
    return times


def start_time(node: Node) -> tuple[float, float]:
    """Seconds from starting the agent's process until its API answers, and until it is ready for pods."""
    start = time.perf_counter()
    node.start(wait=False)

    def answers() -> bool:
        try:
            return bool(node.get("/v1/status"))
        except OSError:
            return False

    eventually(answers, 30, 0.005)
    serving = time.perf_counter() - start
    eventually(node.ready, 30, 0.005)
    return serving, time.perf_counter() - start


def measure(node: Node, rounds: int) -> dict[str, Any]:
    node.load()
    first = start_time(node)
    one_at_a_time(node, 3)  # warm up
    assert node.agent
    before = cpu_ms(node.agent.pid)
    adds, dels = one_at_a_time(node, rounds)
    cpu = (cpu_ms(node.agent.pid) - before) / rounds
    parallel = [value for n in range(3) for value in in_parallel(node, 50, keep=False, prefix=f"p{n}x")]
    in_parallel(node, 50, keep=True, prefix="a")
    in_parallel(node, 50, keep=True, prefix="b")
    resident = resident_mib(node.agent.pid)
    node.kill()
    again = start_time(node)
    return {
        "add_one_p50_ms": round(statistics.median(adds), 1),
        "add_one_p99_ms": round(percentile(adds, 0.99), 1),
        "del_one_p50_ms": round(statistics.median(dels), 1),
        "agent_cpu_per_add_and_del_ms": round(cpu, 1),
        "add_parallel_p50_ms": round(statistics.median(parallel), 1),
        "add_parallel_p99_ms": round(percentile(parallel, 0.99), 1),
        "rss_100_pods_mib": round(resident, 1),
        "start_to_serving_s": round(first[0], 2),
        "start_to_ready_s": round(first[1], 2),
        "start_to_serving_100_pods_s": round(again[0], 2),
        "start_to_ready_100_pods_s": round(again[1], 2),
    }


@contextlib.contextmanager
def cluster_of_one(network: Network, directory: Path) -> Iterator[Node]:
    """A node whose agent uses a real Kubernetes API, with SERVICES services of BACKENDS endpoints each."""
    programs = tools.provide(print)
    server = api.ApiServer(programs, directory / "api", network.switch, "10.200.0.254", SERVICE_CIDR)
    try:
        server.start()
        with server.connection() as call:
            call("POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}})
        # The pods have no objects: with policies they would wait for them, and start closed.
        node = network.add_node(
            node_source="kubernetes", kubeconfig=str(server.kubeconfig), service_cidr=SERVICE_CIDR,
            kube_proxy_replacement=True, policy={"enforcement": "never"}, **INTERVALS,
        )  # fmt: skip
        assert node.pod_cidr
        server.create([api.node(node.name, node.address, node.pod_cidr), *services()])
        yield node
    finally:
        server.stop()


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    """Services that nobody is behind."""
    for number in range(SERVICES):
        yield api.service(f"s{number}", f"10.202.1.{number + 1}", 80)
        yield api.endpoints(f"s{number}", [f"10.204.{number}.{i + 1}" for i in range(BACKENDS)], 8080)


def machine() -> dict[str, Any]:
    load = round(os.getloadavg()[0], 1)
    return {
        "kernel": os.uname().release,
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "load": load,
    }


def show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", "target", title="CNI ADD and the agent")
    for name, value in figures.items():
        target = TARGETS.get(name)
        verdict = "" if target is None else f"< {target:g} {'met' if value < target else 'MISSED'}"
        table.add_row(name, str(value), verdict)
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50, help="ADDs one at a time (default: 50)")
    parser.add_argument(
        "--kubernetes", action="store_true",
        help="use a real kube-apiserver, built the first time, instead of files",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: it makes network namespaces and loads BPF programs")
    unwind_on_signals()
    with tempfile.TemporaryDirectory(prefix="podwire-bench") as name:
        directory = Path(name)
        plugin = directory / "podwire-cni"
        source = REPOSITORY / "cni" / "podwire-cni.c"
        subprocess.run(["gcc", "-static", "-O2", "-o", str(plugin), str(source)], check=True)
        objects = build(REPOSITORY / "bpf", Cache(directory / "cache"), lambda line: None)
        prefix = f"pb{os.getpid()}"
        with (
            swept(prefix, directory),
            contextlib.closing(Network(prefix, directory, objects, plugin)) as network,
            contextlib.ExitStack() as stack,
        ):
            if options.kubernetes:
                try:
                    node = stack.enter_context(cluster_of_one(network, directory))
                except LabError as error:
                    parser.error(f"{error}: {error.hint}")
            else:
                node = network.add_node(**INTERVALS)
            figures = measure(node, options.rounds)
    show(figures)
    print(f"machine: {machine()}")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")
    return 0 if all(figures[name] < limit for name, limit in TARGETS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
