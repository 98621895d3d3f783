# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""snapd's changes and their tasks: how far one is, how long its tasks took, why it failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import SnapdError

LOG_LINES = 12


class ChangeFailedError(SnapdError):
    """The change ended in an error and snapd has undone it. ``change`` is its last state."""

    def __init__(self, message: str, *, hint: str, change: Mapping[str, Any]) -> None:
        super().__init__(message, hint=hint, kind="change-failed")
        self.details["change"] = summary(change)


class ChangeTimeoutError(ChangeFailedError):
    """The change still runs after the time allowed; it goes on without us."""


def task_durations(change: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The change's tasks in the order they ended, with the seconds each took.

    snapd records when a task was created and when it ended, not when it began; tasks of one snap run one
    after another, so a task's time is what passed since the one before it ended.
    """
    tasks = list(change.get("tasks") or [])
    before = _seconds(change.get("spawn-time"))
    ended = sorted(
        ((_seconds(task.get("ready-time")) or float("inf"), index) for index, task in enumerate(tasks))
    )
    report = []
    for moment, index in ended:
        task = tasks[index]
        entry = {
            "kind": task.get("kind", ""),
            "summary": task.get("summary", ""),
            "status": task.get("status", ""),
        }
        if moment != float("inf") and before is not None:
            entry["seconds"] = round(max(0.0, moment - before), 2)
            before = max(before, moment)
        report.append(entry)
    return report


def running_task(change: Mapping[str, Any]) -> dict[str, Any] | None:
    """The task a change is at, or the one that failed."""
    tasks = list(change.get("tasks") or [])
    for status in ("Error", "Doing", "Undoing", "Wait"):
        for task in tasks:
            if task.get("status") == status:
                return dict(task)
    return None


def summary(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change as a module's result shows it."""
    task = running_task(change)
    return {
        "id": str(change.get("id", "")),
        "kind": change.get("kind", ""),
        "summary": change.get("summary", ""),
        "status": change.get("status", ""),
        "error": change.get("err", ""),
        "tasks": task_durations(change),
        "log": list((task or {}).get("log") or [])[-LOG_LINES:],
    }


def timed_out(change: Mapping[str, Any]) -> ChangeTimeoutError:
    """The exception for a change that has not ended in the time allowed."""
    task = running_task(change) or {}
    done = sum(1 for item in change.get("tasks") or [] if item.get("status") == "Done")
    return ChangeTimeoutError(
        f"snapd has not finished '{change.get('summary')}' (change {change.get('id')}) in the time "
        "allowed: "
        f"{done} of {len(change.get('tasks') or [])} tasks done, now at "
        f"'{task.get('summary', change.get('status'))}'"
        f"{_progress_text(task)}{_log_text(task)}",
        hint=f"It goes on; run again to wait for it, or end it with: snap abort {change.get('id')}.",
        change=change,
    )


def failed(change: Mapping[str, Any]) -> ChangeFailedError:
    """The exception for a change that ended otherwise than done."""
    task = running_task(change) or {}
    reason = str(change.get("err") or "").strip() or str(change.get("status"))
    hint = "snapd has undone it. Remove the cause and run again."
    if "persistent network error" in reason:
        hint = "The node does not reach the snap store: give what is missing as files too (prerequisites)."
    # snapd repeats the log's error line in the change's own.
    lines = [line for line in task.get("log") or [] if str(line).rpartition(" ERROR ")[2] not in reason]
    return ChangeFailedError(
        f"snapd could not finish '{change.get('summary')}' (change {change.get('id')}): "
        f"{reason}{_log_text({'log': lines})}",
        hint=hint,
        change=change,
    )


def _seconds(text: str | None) -> float | None:
    """An RFC 3339 time, with Go's nanoseconds, as seconds since the epoch."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if not match:
        return None
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    return moment.timestamp() + float(fraction or 0)


def _progress_text(task: Mapping[str, Any]) -> str:
    progress = task.get("progress") or {}
    done, total = progress.get("done", 0), progress.get("total", 0)
    if total > 1:
        return f" ({100 * done // total} % of {total} bytes)"
    return ""


def _log_text(task: Mapping[str, Any]) -> str:
    lines = [str(line) for line in task.get("log") or []][-LOG_LINES:]
    return f". Its log ends with: {' | '.join(lines)}" if lines else ""
