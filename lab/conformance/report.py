"""The table at the end of a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lab.conformance.results import FAILED, by_suite
from lab.conformance.run import REPORTS, Outcome
from lab.progress import duration


def show(console: Console, outcome: Outcome, whole: float) -> None:
    """Print what came of each suite, the specs that failed, and how long it took (seconds)."""
    table = Table(title="conformance", title_justify="left")
    for column in ("suite", "passed", "failed", "time of its specs"):
        table.add_column(column, justify="left" if column == "suite" else "right")
    for suite, (good, bad, seconds) in by_suite(outcome.specs).items():
        table.add_row(suite, str(good), str(bad), duration(seconds))
    table.add_section()
    failed = sum(spec.state == FAILED for spec in outcome.specs)
    table.add_row("all", str(len(outcome.specs) - failed), str(failed), f"{duration(whole)} in all")
    console.print(table)
    console.print(f"reports: {REPORTS}", highlight=False, soft_wrap=True)
