"""Draw what was measured. ``python -m benchmarks.services.plot FIGURES.json PICTURE``"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

KINDS = {"podwire": "tab:blue", "kube-proxy": "tab:orange"}


def draw(document: dict[str, Any], output: Path) -> None:
    """Write a picture (PNG or SVG, by the file's suffix) of a run's document."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    panels = (
        (
            axes[0][0],
            "TCP_CRR to a ClusterIP (connections/s)",
            lambda v: statistics.median(v["crr"]),
            "linear",
        ),
        (axes[0][1], "connect() to a ClusterIP (µs)", lambda v: statistics.median(v["connect_us"]), "linear"),
        (axes[1][0], "one endpoint change in force (s)", lambda v: v["seconds_of_a_change"], "log"),
        (axes[1][1], "from start to all services in force (s)", lambda v: v["seconds_to_program"], "log"),
    )
    for axis, title, value, scale in panels:
        for kind, colour in KINDS.items():
            points = _points(document, kind)
            if points:
                axis.plot(
                    [count for count, _ in points], [value(item) for _, item in points], "o-", color=colour,
                    label=f"{kind} ({document['iptables']})" if kind == "kube-proxy" else kind,
                )  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log")
        axis.set_yscale(scale)
        axis.set_xlabel("services with 10 endpoints each")
        axis.grid(alpha=0.3)
        if scale == "linear":
            axis.set_ylim(bottom=0)
    axes[0][0].legend()
    machine = document["machine"]["before"]
    figure.suptitle(f"Services: kernel {machine['kernel']}, {machine['cpus']} cores, {machine['time']}")
    figure.savefig(output, dpi=120)


def _points(document: dict[str, Any], kind: str) -> list[tuple[int, dict[str, Any]]]:
    """(number of services, figures) of one kind, rising."""
    found = (name.rpartition(" ") for name in document["figures"])
    return sorted(
        (int(count), document["figures"][f"{name} {count}"]) for name, _, count in found if name == kind
    )


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
