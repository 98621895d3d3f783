"""Network policies: the engine alone, nanoseconds per packet, and the time from a policy's creation in the
API to its enforcement on every node of a running lab. Prints JSON, progress goes to stderr.

``python -m benchmarks.policy --help``; needs root."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from lab.config import DEFAULT_NAME, Lab
from lab.errors import LabError
from lab.up import existing
from podwire.kube.client import ApiError, KubeClient

from ..stopping import unwind_on_signals
from . import engine, latency, packets


def running_lab(name: str) -> tuple[Lab | None, str]:
    """The lab of that name, or why it cannot be used."""
    try:
        lab = existing(name)
        KubeClient(lab.state / "kubeconfig").get("/version")
    except (LabError, ApiError) as error:
        return None, f"there is no running lab {name} ({error}); start one: make up LAB={name}"
    return lab, ""


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """Of each target that was measured, whether it was met."""
    found = {}
    if "engine" in result:
        found["engine"] = bool(result["engine"]["met"])
    if "packets" in result:
        ratios = result["packets"]["ratio_to_one_policy"]["many"]
        found["packets"] = all(ratio <= packets.TARGET for ratio in ratios.values())
    if "in_force" in result.get("latency", {}):
        taken = result["latency"]["in_force"]
        found["latency"] = all(taken[name] <= target for name, target in latency.TARGETS.items())
    return found


@click.command(help=__doc__)
@click.option("--lab", "name", default=lambda: os.environ.get("LAB") or DEFAULT_NAME, help="A running lab.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Choice(["engine", "packets", "latency"]),
    help="Only this; may be given more than once.",
)
@click.option("--rounds", default=300, show_default=True, help="Turns of each kind of packets.")
@click.option("--pods", default=latency.PODS, show_default=True, help="Pods on the lab.")
@click.option(
    "--policies", default=latency.POLICIES, show_default=True, help="Policies to create on the lab."
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures to this file, too.")
def main(name: str, parts: tuple[str, ...], file: Path | None, **counts: int) -> None:
    unwind_on_signals()
    chosen = parts or ("engine", "packets", "latency")
    result: dict[str, Any] = {"load": os.getloadavg()[0]}
    if "engine" in chosen:
        click.echo("the engine alone", err=True)
        result["engine"] = engine.measured()
    if "packets" in chosen:
        click.echo("nanoseconds per packet", err=True)
        result["packets"] = packets.figures(counts["rounds"])
    if "latency" in chosen:
        lab, reason = running_lab(name)
        if lab is None:
            click.echo(f"SKIPPED: from a policy's creation to its enforcement: {reason}", err=True)
            result["latency"] = {"skipped": reason}
        else:
            click.echo(f"from a policy's creation to its enforcement, on lab {name}", err=True)
            result["latency"] = latency.run(lab, counts["pods"], counts["policies"])
    result["met"] = verdicts(result)
    text = json.dumps(result, indent=2)
    print(text)
    if file is not None:
        file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
