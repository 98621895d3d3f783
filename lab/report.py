"""The last thing ``make up`` prints: nodes, datapath, connectivity, timings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab import nodes
from lab.checks import Matrix
from lab.config import Lab
from lab.errors import LabError
from lab.progress import duration


def node_status(lab: Lab, node: str) -> dict[str, Any]:
    """What the node's agent says of itself; ``{"error": ...}`` when it does not."""
    try:
        result = nodes.ssh(lab, node, ["podwire", "status", "-o", "json"], check=False, timeout=20)
    except LabError as error:
        return {"error": str(error)}
    try:
        value = json.loads(result.stdout)
    except ValueError:
        return {"error": (result.stderr or result.stdout).strip().splitlines()[-1:] or "no answer"}
    return value if isinstance(value, dict) else {"error": "no status"}


def node_row(node: str, address: str, status: dict[str, Any]) -> list[str]:
    """Cells of a node's row. Pure."""
    if "error" in status:
        return [node, address, f"no agent: {status['error']}", "", "", "", ""]
    datapath = status.get("datapath") or {}
    mode = str(datapath.get("mode") or "not loaded")
    if datapath.get("reason"):
        mode += f" ({datapath['reason']})"
    programs = datapath.get("programs") or []
    names = sorted(_name(item).removeprefix("podwire_") for item in programs)
    ready = "ready" if status.get("ready") else f"NOT READY: {'; '.join(status.get('reasons', []))}"
    cidr = (status.get("ipam") or {}).get("pod_cidr") or ""
    return [
        node,
        address,
        ready,
        mode,
        str(datapath.get("attach", "")),
        ", ".join(names) or "none",
        str(cidr),
    ]


def _name(item: Any) -> str:
    return str(item.get("name", item)) if isinstance(item, dict) else str(item)


def show(
    console: Console,
    lab: Lab,
    matrix: Matrix | None,
    timings: Sequence[tuple[str, float]],
    whole: float = 0,
) -> None:
    """Print the tables. ``whole`` is how long the run took, in seconds."""
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda node: node_status(lab, node), lab.nodes))
    table = Table(title=f"lab {lab.name}", title_justify="left")
    for column in ("node", "address", "agent", "host routing", "attached by", "programs", "pods"):
        table.add_column(column, overflow="fold")
    for node, status in zip(lab.nodes, statuses, strict=True):
        table.add_row(*node_row(node, lab.address(node), status))
    console.print(table)
    if matrix:
        console.print(matrix_table(matrix))
    if timings:
        shown = Table(title="timings", title_justify="left")
        shown.add_column("step")
        shown.add_column("time", justify="right")
        for name, seconds in timings:
            shown.add_row(name, duration(seconds))
        shown.add_section()
        shown.add_row("all, with what ran side by side", duration(whole))
        console.print(shown)
    kubeconfig = lab.state / "kubeconfig"
    if kubeconfig.exists():
        console.print(f"kubectl --kubeconfig {kubeconfig} get nodes", highlight=False, soft_wrap=True)


def matrix_table(matrix: Matrix) -> Table:
    """Who reaches whom, and how."""
    table = Table(
        title="connectivity", title_justify="left", caption=_caption(matrix), caption_justify="left"
    )
    table.add_column("from")
    for column in matrix.columns:
        table.add_column(column)
    for source in matrix.sources:
        cells = [Text(source)]
        for column in matrix.columns:
            good, bad = matrix.cell(source, column)
            cells.append(Text.assemble((" ".join(good), "green"), " " if good and bad else "", _bad(bad)))
        table.add_row(*cells)
    return table


def _bad(names: Sequence[str]) -> tuple[str, str]:
    return (f"FAILED: {' '.join(names)}" if names else "", "bold red")


def _caption(matrix: Matrix) -> str:
    good = len(matrix.flows) - len(matrix.problems)
    return (
        f"{good} of {len(matrix.flows)} connections work; the world saw the nodes' addresses (masqueraded)"
        if (not matrix.problems)
        else f"{good} of {len(matrix.flows)} connections work"
    )
