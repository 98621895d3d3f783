"""Tables made of mappings, and errors of the datapath as one message, for commands that read the kernel."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from podwire.bpf import BpfError, LibraryNotFound
from podwire.datapath import DatapathError

from .output import print_facts, print_json, print_table


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """A table with one line per mapping; ``columns`` gives their order (default: as in the first one)."""
    if not rows:
        click.echo(f"{title}: none")
        return
    names = list(columns) or list(rows[0])
    cells = [[text(row.get(name)) for name in names] for row in rows]
    print_table([name.replace("_", " ") for name in names], cells, title=title)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Name and value, one pair per line."""
    print_facts((name.replace("_", " "), text(value), None) for name, value in fields.items())


def text(value: Any) -> str:
    """A value as a table shows it."""
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
    except (BpfError, LibraryNotFound) as error:
        denied = getattr(error, "errno", 0) in (errno.EPERM, errno.EACCES)
        _fail(output, str(error), "Run it as root." if denied else "")
    except PermissionError as error:
        _fail(output, f"{error.filename}: {error.strerror}", "Run it as root.")


def _fail(output: str, cause: str, hint: str) -> None:
    if output == "json":
        print_json({"error": cause, "hint": hint})
    else:
        click.echo(f"error: {cause}", err=True)
        if hint:
            click.echo(f"hint: {hint}", err=True)
    sys.exit(1)
