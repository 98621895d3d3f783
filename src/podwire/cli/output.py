"""How commands print: rich tables for people, JSON for programs. rich is imported only when a table is
printed."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

PIPE_WIDTH = 400
F = TypeVar("F", bound=Callable[..., Any])


def output_option(function: F) -> F:
    """Add ``-o table|json``; the command gets it as ``output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Format.",
    )(function)


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2))


@functools.cache
def _console() -> Any:
    from rich.console import Console

    # Into a pipe or a file nothing may be cut off; there is no width to fit into.
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """Print rows below column heads; values are shown as they are, nothing is taken for markup."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    heads = [Column(column, overflow="fold") for column in columns]
    table = Table(*heads, box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    _console().print(table)


def print_facts(facts: Iterable[tuple[str, Any, bool | None]]) -> None:
    """Print name and value per line; the third item colours the value: good, bad, or neither."""
    from rich.table import Table
    from rich.text import Text

    styles = {True: "green", False: "red", None: ""}
    grid = Table.grid(padding=(0, 2))
    for name, value, good in facts:
        grid.add_row(Text(name, style="bold"), Text(str(value), style=styles[good]))
    _console().print(grid)


def ago(seconds: float) -> str:
    """A duration for people: 45s, 12m, 3h, 4d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def clock(seconds: float) -> str:
    """Local time of day with milliseconds."""
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03d}"
