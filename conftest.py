"""For every suite: what failed is also written down, so that the end of a long run can name it."""

from __future__ import annotations

from pathlib import Path

import pytest

FAILURES = Path(__file__).parent / "build" / "failures.txt"
"""Read by `.ci/run`, which starts without it."""
LINES = 40
"""Of each failure: its end says most."""
REASON = 1200
"""Characters of what went wrong, which comes first: the end of a long report may be cut off."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        FAILURES.parent.mkdir(exist_ok=True)
        crash = getattr(report.longrepr, "reprcrash", None)
        reason = f"reason: {crash.message[:REASON]}" if crash else "no reason given"
        text = [reason, "", *report.longreprtext.splitlines()[-LINES:]]
        with FAILURES.open("a", encoding="utf-8") as file:
            file.write("\n".join((f"== {report.nodeid} ({report.when})", *text, "")))
