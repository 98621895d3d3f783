"""Output of commands: JSON for programs, tables for people, errors with the way out."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from podwire.bpf import BpfError
from podwire.bpf._ffi import LibraryNotFound
from podwire.datapath import DatapathError

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(command: Command) -> Command:
    """``-o json`` or ``-o table``, as argument ``output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="What to print.",
    )(command)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, sort_keys=False, default=str))


def print_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """A table with one row per mapping; ``columns`` gives their order (default: as in the first row)."""
    if not rows:
        click.echo(f"{title}: none")
        return
    names = list(columns) or list(rows[0])
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in names))
    console = Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200)
    console.print(table)


def print_fields(title: str, fields: Mapping[str, Any]) -> None:
    """Name and value pairs, one per line."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    for name, value in fields.items():
        table.add_row(name.replace("_", " "), cell(value))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def cell(value: Any) -> str:
    """Text of a value in a table."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


@contextlib.contextmanager
def errors(output: str) -> Iterator[None]:
    """Turn expected errors into one message (or ``{"error", "hint"}``) and exit status 1."""
    try:
        yield
    except DatapathError as error:
        _fail(output, error.cause, error.hint)
    except (BpfError, LibraryNotFound, PermissionError) as error:
        hint = (
            "Run it as root." if isinstance(error, PermissionError) or getattr(error, "errno", 0) == 1 else ""
        )
        _fail(output, str(error), hint)


def _fail(output: str, cause: str, hint: str) -> None:
    if output == "json":
        print_json({"error": cause, "hint": hint})
    else:
        click.echo(f"error: {cause}", err=True)
        if hint:
            click.echo(f"hint: {hint}", err=True)
    sys.exit(1)
