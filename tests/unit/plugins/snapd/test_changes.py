"""What a change that failed or takes too long tells."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_changes import (
    ChangeFailedError,
    ChangeTimeoutError,
    task_durations,
)

from tests.unit.plugins.snapd.server import accepted, change, soon


def test_a_failed_change_tells_the_hook_and_its_last_lines(server, client):
    task = {"summary": "Run install hook", "status": "Error", "log": [f"line {n}" for n in range(40)]}
    server.script("POST /v2/snaps/microk8s", accepted("7"))
    server.script("GET /v2/changes/7", change("Error", [task], err="the hook says no"))
    with pytest.raises(ChangeFailedError) as caught:
        client.action("microk8s", "install", deadline=soon())
    assert "the hook says no" in str(caught.value)
    assert "line 39" in str(caught.value)
    assert "line 2 " not in str(caught.value)
    assert caught.value.details["change"]["log"][-1] == "line 39"


def test_a_failure_is_told_once_and_a_missing_store_has_a_way_out(server, client):
    reason = 'cannot install snap base "core20": persistent network error: Post'
    task = {"summary": "prerequisites", "status": "Error", "log": ["before", f"2026-01-05 ERROR {reason}"]}
    server.script("POST /v2/snaps/microk8s", accepted("7"))
    server.script("GET /v2/changes/7", change("Error", [task], err=f"- prerequisites ({reason})"))
    with pytest.raises(ChangeFailedError) as caught:
        client.action("microk8s", "install", deadline=soon())
    assert str(caught.value).count(reason) == 1
    assert "Its log ends with: before" in str(caught.value)
    assert "prerequisites" in caught.value.hint


def test_a_timeout_carries_the_state_reached_so_far(server, client):
    tasks = [
        {"summary": "Mount snap", "status": "Done"},
        {
            "summary": "Download snap",
            "status": "Doing",
            "progress": {"label": "microk8s", "done": 50, "total": 200},
            "log": ["retrying"],
        },
        {"summary": "Start services", "status": "Do"},
    ]
    server.script("POST /v2/snaps/microk8s", accepted("7"))
    server.script("GET /v2/changes/7", change("Doing", tasks))
    with pytest.raises(ChangeTimeoutError) as caught:
        client.action("microk8s", "install", deadline=soon(0.1))
    text = str(caught.value)
    assert "1 of 3 tasks done, now at 'Download snap' (25 % of 200 bytes)" in text
    assert "retrying" in text
    assert "snap abort 7" in caught.value.hint


def test_task_durations_are_the_times_between_ends():
    tasks = [
        {"kind": "link-snap", "status": "Done", "ready-time": "2026-01-05T10:00:03.5Z"},
        {"kind": "mount-snap", "status": "Done", "ready-time": "2026-01-05T12:00:01+02:00"},
        {"kind": "start-snap-services", "status": "Do"},
    ]
    report = task_durations(change("Doing", tasks)["result"])
    assert [(task["kind"], task.get("seconds")) for task in report] == [
        ("mount-snap", 1.0),
        ("link-snap", 2.5),
        ("start-snap-services", None),
    ]
