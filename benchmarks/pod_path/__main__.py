"""Pod to pod on one node: podwire beside a program that only calls bpf_redirect_peer, and a bare veth pair.

All pairs are up at once and measured in turn, round after round, so that a noisy machine is as noisy for
each; figures are reported as ratios of medians. ``python -m benchmarks.pod_path --help``.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lab.errors import LabError

from ..stopping import swept, unwind_on_signals
from . import netperf
from .podwire_pair import podwire_pods
from .topology import Pair, bare_veth, minimal_program, namespace

HERE = Path(__file__).parent
TARGETS = {"TCP_STREAM": 0.97, "TCP_RR": 0.97, "TCP_CRR": 0.93}

Figures = dict[str, dict[str, list[float]]]


def compile_yardstick(directory: Path) -> Path:
    """Compile the minimal program; returns the object's path."""
    output = directory / "redirect_peer.bpf.o"
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", "-Wall", "-Wextra", "-Werror",
         f"-I/usr/include/{os.uname().machine}-linux-gnu",
         "-c", str(HERE / "redirect_peer.bpf.c"), "-o", str(output)],
        check=True,
    )  # fmt: skip
    return output


def ratios(figures: Figures) -> dict[str, dict[str, float]]:
    """test -> {"minimal": podwire / minimal, "veth": podwire / veth}, of medians."""
    medians = {
        test: {name: statistics.median(values) for name, values in pairs.items()}
        for test, pairs in figures.items()
    }
    return {
        test: {other: values["podwire"] / values[other] for other in ("minimal", "veth")}
        for test, values in medians.items()
    }


def measure_all(pairs: list[Pair], rounds: int, seconds: int, console: Console) -> Figures:
    """Interleave: every round runs every test on every pair, in an order that turns with the round."""
    figures: Figures = {test: {pair.name: [] for pair in pairs} for test in netperf.UNITS}
    for number in track(range(rounds), description="rounds", console=console):
        for test in netperf.UNITS:
            for index in range(len(pairs)):
                pair = pairs[(index + number) % len(pairs)]
                figures[test][pair.name].append(netperf.measure(pair, test, seconds))
    return figures


def show(figures: Figures, console: Console) -> None:
    """Print medians, ratios and targets."""
    table = Table(title="pod to pod on one node: medians, and podwire as a ratio", title_justify="left")
    for heading in ("test", "unit", "veth", "minimal", "podwire", "/minimal", "target", "/veth"):
        table.add_column(heading, justify="left" if heading in ("test", "unit") else "right")
    for test, ratio in ratios(figures).items():
        medians = {name: f"{statistics.median(values):,.0f}" for name, values in figures[test].items()}
        table.add_row(
            test, netperf.UNITS[test], medians["veth"], medians["minimal"], medians["podwire"],
            f"{ratio['minimal']:.3f}", f"{TARGETS[test]:.2f}", f"{ratio['veth']:.3f}",
        )  # fmt: skip
    console.print(table)


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True, help="How often every pair is measured.")
@click.option("--seconds", default=2, show_default=True, help="Length of one netperf run.")
@click.option("--host-routing", type=click.Choice(["ebpf", "legacy"]), default="ebpf", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every single figure here.")
def main(rounds: int, seconds: int, host_routing: str, json_file: Path | None) -> None:
    console = Console(stderr=True)
    try:
        netperf.provide()
    except LabError as error:
        raise click.ClickException(f"{error}: {error.hint}") from error
    unwind_on_signals()
    prefix = f"pwb{os.getpid()}"
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podwire-benchmark-")))
        stack.enter_context(swept(prefix, work))
        node = stack.enter_context(namespace(f"{prefix}-node"))
        pairs = [
            stack.enter_context(bare_veth(prefix)),
            stack.enter_context(minimal_program(prefix, node, compile_yardstick(work))),
            stack.enter_context(podwire_pods(prefix, work, host_routing)),
        ]
        for pair in pairs:
            stack.enter_context(netperf.server(pair))
        stack.enter_context(netperf.cores_awake())
        figures = measure_all(pairs, rounds, seconds, console)
    show(figures, Console())
    if json_file:
        json_file.write_text(json.dumps({"figures": figures, "ratios": ratios(figures)}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
