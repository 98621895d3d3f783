"""Services by podwire and by kube-proxy (iptables), beside each other, with few and with many services.

Objects are created through a real kube-apiserver with etcd: services with 10 endpoints each that are no real
pods, and a few that lead to a real server. For each number of services a node of either kind is brought in
force, one after the other, and its endpoint is changed a few times. Then all daemons end, and connections to
services are measured on all nodes in turn, round after round, so that a noisy machine is as noisy for each.

``python -m benchmarks.services --help``; needs root, and the first time Debian's packages and sources."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import build
from rich.console import Console
from rich.table import Table

from lab.errors import LabError
from lab.snap.build import IPTABLES
from tests.integration.agent.lab import REPOSITORY, Network

from ..pod_path import netperf
from ..stopping import swept, unwind_on_signals
from . import api, tools
from .contestants import Contestant, KubeProxy, Podwire, median

SERVICE_CIDR = "10.202.0.0/16"
BACKENDS = 10
CONNECTIONS = 50
"""Connections of one turn."""
FIRST_SERVICE = ipaddress.IPv4Address("10.202.1.1")
FIRST_BACKEND = ipaddress.IPv4Address("10.204.0.1")
TARGETS = {"seconds_to_program": 30.0, "resident_mib": 300.0, "connect_ratio": 1.05}
Figures = dict[str, Any]


def filling(first: int, last: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Services number ``first`` to ``last - 1`` and their slices; nobody is behind them."""
    for number in range(first, last):
        name = f"filling-{number}"
        yield api.service(name, str(FIRST_SERVICE + number), 80)
        backends = [str(FIRST_BACKEND + number * BACKENDS + index) for index in range(BACKENDS)]
        yield api.endpoints(name, backends, 8080)


class Benchmark:
    """The machinery: network, API server and contestants so far."""

    def __init__(self, network: Network, server: api.ApiServer, console: Console, changes: int) -> None:
        self._network = network
        self._server = server
        self._console = console
        self._changes = changes
        self._filled = 0
        self.contestants: list[Contestant] = []
        self.figures: Figures = {}

    def stage(self, count: int, kinds: list[type[Contestant]]) -> None:
        """Bring the number of services to ``count`` and measure a node of each kind with them."""
        took = self._server.create(filling(self._filled, count))
        self._console.print(f"{count - self._filled} services and slices created in {took:.1f} s")
        self._filled = count
        for kind in kinds:
            contestant = kind(self._network, self._server, count, SERVICE_CIDR)
            self.contestants.append(contestant)
            figures = contestant.start()
            times = contestant.changes(self._changes)
            contestant.freeze()
            figures["seconds_of_a_change"] = median(times)
            self.figures[contestant.name] = {**figures, "changes": times, "connect_us": [], "crr": []}
            self._console.print(
                f"{contestant.name}: in force after {figures['seconds_to_program']:.2f} s, "
                f"{figures['resident_mib']:.0f} MiB, "
                f"a change in {figures['seconds_of_a_change'] * 1000:.0f} ms"
            )

    def rounds(self, count: int, turns: int, seconds: int) -> None:
        """Connect to services on every node in turn, in an order that turns with the round.

        The turns of connect() are short: what disturbs one of two neighbours disturbs the other."""
        for number in range(count):
            order = [*self.contestants[number % len(self.contestants) :], *self.contestants][
                : len(self.contestants)
            ]
            for turn in range(turns):
                for contestant in order if turn % 2 else order[::-1]:
                    took = contestant.connect_microseconds(turn, CONNECTIONS)
                    self.figures[contestant.name]["connect_us"].append(took)
            for contestant in order:
                self.figures[contestant.name]["crr"].append(contestant.netperf(number, seconds))
            self._console.print(f"round {number + 1} of {count}")

    def close(self) -> None:
        for contestant in self.contestants:
            contestant.close()


def summary(figures: Figures, counts: list[int]) -> Figures:
    """The figures that the targets are about."""
    few, many = f"{Podwire.kind} {counts[0]}", f"{Podwire.kind} {counts[-1]}"
    ratios = [b / a for a, b in zip(figures[few]["connect_us"], figures[many]["connect_us"], strict=True)]
    return {
        "services": counts[-1],
        "backends_each": BACKENDS,
        "seconds_to_program": figures[many]["seconds_to_program"],
        "resident_mib": figures[many]["resident_mib"],
        "connect_ratio": median(ratios),
    }


def show(figures: Figures, result: Figures, console: Console) -> None:
    table = Table(title="services: medians", title_justify="left")
    for heading in ("node", "in force s", "MiB", "change ms", "connect µs", "TCP_CRR /s"):
        table.add_column(heading, justify="left" if heading == "node" else "right")
    for name, values in figures.items():
        table.add_row(
            name, f"{values['seconds_to_program']:.2f}", f"{values['resident_mib']:.0f}",
            f"{values['seconds_of_a_change'] * 1000:.0f}", f"{median(values['connect_us']):.1f}",
            f"{median(values['crr']):,.0f}",
        )  # fmt: skip
    console.print(table)
    for name, limit in TARGETS.items():
        verdict = "met" if result[name] < limit else "MISSED"
        console.print(
            f"{name} with {result['services']} services: {result[name]:.3f} (< {limit:g}: {verdict})"
        )


def iptables_directory(variant: str, directory: Path) -> str:
    """A directory whose iptables is the wanted variant: kube-proxy takes what it finds first."""
    directory.mkdir()
    for command in IPTABLES:
        family, _, rest = command.partition("-")
        target = f"/usr/sbin/{family}-{variant}" + (f"-{rest}" if rest else "")
        (directory / command).symlink_to(target)
    return str(directory)


def compile_cni(directory: Path) -> Path:
    output = directory / "podwire-cni"
    source = REPOSITORY / "cni" / "podwire-cni.c"
    subprocess.run(["gcc", "-static", "-O2", "-o", str(output), str(source)], check=True)
    return output


def machine() -> Figures:
    """What the figures were measured on."""
    return {
        "kernel": os.uname().release,
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "load": [round(value, 1) for value in os.getloadavg()],
        "time": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


@dataclass(frozen=True)
class Options:
    """The command line."""

    services: str
    changes: int
    rounds: int
    turns: int
    seconds: int
    iptables: str
    kube_proxy: bool
    json_file: Path | None
    plot_file: Path | None


@click.command(help=__doc__)
@click.option("--services", default="10,1000,10000", show_default=True, help="Numbers of services, rising.")
@click.option("--changes", default=5, show_default=True, help="Endpoint changes on each node.")
@click.option("--rounds", default=7, show_default=True, help="How often every node is measured.")
@click.option("--turns", default=40, show_default=True, help="How often a node connects in one round.")
@click.option("--seconds", default=2, show_default=True, help="Length of one netperf run.")
@click.option("--iptables", type=click.Choice(["nft", "legacy"]), default="legacy",
              show_default=True, help="What kube-proxy uses; legacy is the quicker one.")  # fmt: skip
@click.option("--kube-proxy/--no-kube-proxy", default=True, show_default=True, help="Measure kube-proxy too.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every single figure here.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw the figures (PNG or SVG).")
def main(**values: Any) -> None:
    options = Options(**values)
    if options.plot_file:
        import matplotlib  # noqa: F401 - not after minutes of measuring: it may be missing
    unwind_on_signals()
    console = Console(stderr=True)
    document = run(options, console)
    show(document["figures"], document["summary"], Console())
    if options.json_file:
        options.json_file.write_text(json.dumps(document, indent=2) + "\n")
    if options.plot_file:
        from .plot import draw

        draw(document, options.plot_file)


def run(options: Options, console: Console) -> Figures:
    """Measure everything; returns the document that is written as JSON."""
    counts = sorted({int(item) for item in options.services.split(",")})
    try:
        netperf.provide()
        programs = tools.provide(console.print)
    except LabError as error:
        raise click.ClickException(f"{error}: {error.hint}") from error
    before = machine()
    prefix = f"pws{os.getpid()}"
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podwire-benchmark-")))
        stack.enter_context(swept(prefix, work))
        KubeProxy.program = programs / "kube-proxy"
        KubeProxy.path = iptables_directory(options.iptables, work / "iptables")
        objects = build(REPOSITORY / "bpf", Cache(work / "cache"), lambda line: None)
        network = stack.enter_context(contextlib.closing(Network(prefix, work, objects, compile_cni(work))))
        server = api.ApiServer(programs, work / "api", network.switch, "10.200.0.254", SERVICE_CIDR)
        stack.callback(server.stop)
        server.start()
        with server.connection() as call:
            call("POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}})
        benchmark = Benchmark(network, server, console, options.changes)
        stack.callback(benchmark.close)
        for count in counts:
            benchmark.stage(count, [Podwire, KubeProxy] if options.kube_proxy else [Podwire])
        server.stop()
        with netperf.cores_awake():
            benchmark.rounds(options.rounds, options.turns, options.seconds)
    return {
        "machine": {"before": before, "after": machine()},
        "iptables": options.iptables if options.kube_proxy else None,
        "summary": summary(benchmark.figures, counts),
        "targets": TARGETS,
        "figures": benchmark.figures,
    }


if __name__ == "__main__":
    sys.exit(main())
