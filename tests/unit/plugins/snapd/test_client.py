"""Asking and acting: what is sent to snapd, and how its changes are followed."""

from __future__ import annotations

import json

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_changes import ChangeFailedError
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import ChangeConflictError

from tests.unit.plugins.snapd.server import accepted, change, error, soon, sync


def test_an_installed_snap_is_its_record(server, client):
    server.script("GET /v2/snaps/microk8s", sync({"name": "microk8s", "revision": "7123"}))
    assert client.snap("microk8s") == {"name": "microk8s", "revision": "7123"}


def test_a_snap_that_is_not_installed_is_none(server, client):
    server.script("GET /v2/snaps/microk8s", error(404, "snap not installed", "snap-not-found", "microk8s"))
    assert client.snap("microk8s") is None


def test_services_get_the_values_that_snapd_leaves_out(server, client):
    server.script(
        "GET /v2/apps?select=service&names=microk8s",
        sync(
            [
                {"snap": "microk8s", "name": "daemon-etcd", "enabled": True},
                {"name": "daemon-kubelite", "active": True},
            ]
        ),
    )
    assert [(app["enabled"], app["active"]) for app in client.services("microk8s")] == [
        (True, False),
        (False, True),
    ]


def test_an_action_is_posted_as_json_and_followed_to_its_end(server, client):
    server.script("POST /v2/snaps/microk8s", accepted("7"))
    server.script("GET /v2/changes/7", change("Doing"), change("Doing"), change("Done"))
    ended = client.action(
        "microk8s", "install", channel="1.28/stable", classic=True, purge=None, deadline=soon()
    )
    assert ended["status"] == "Done"
    _, headers, body = server.seen[0]
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"action": "install", "channel": "1.28/stable", "classic": True}
    assert server.requests().count("GET /v2/changes/7") == 3


def test_a_change_that_is_done_at_once_has_no_tasks(server, client):
    server.script("POST /v2/snaps", accepted("7"))
    server.script("GET /v2/changes/7", change("Done"))
    client.hold("microk8s", deadline=soon())
    assert json.loads(server.seen[0][2]) == {
        "action": "hold",
        "snaps": ["microk8s"],
        "time": "forever",
        "hold-level": "general",
    }


@pytest.mark.parametrize("status", ["Undone", "Hold", "Error"])
def test_only_done_is_success(server, client, status):
    server.script("POST /v2/snaps/microk8s", accepted("7"))
    server.script("GET /v2/changes/7", change(status))
    with pytest.raises(ChangeFailedError):
        client.action("microk8s", "install", deadline=soon())


def test_a_conflicting_change_is_waited_for_and_the_action_sent_again(server, client):
    conflict = error(409, 'snap "microk8s" has "auto-refresh" change in progress', "snap-change-conflict", {})
    server.script("POST /v2/snaps/microk8s", conflict, accepted("7"))
    server.script("GET /v2/changes?select=in-progress&for=microk8s", sync([{"id": "5"}]))
    server.script("GET /v2/changes/5", change("Doing"), change("Error", err="not ours"))
    server.script("GET /v2/changes/7", change("Done"))
    assert client.action("microk8s", "refresh", deadline=soon())["status"] == "Done"
    assert server.requests().count("POST /v2/snaps/microk8s") == 2


def test_a_conflict_that_does_not_end_is_reported(server, client):
    server.script("POST /v2/snaps/microk8s", error(409, "busy", "snap-change-conflict"))
    server.script("GET /v2/changes?select=in-progress&for=microk8s", sync([]))
    with pytest.raises(ChangeConflictError, match="did not end within the time allowed"):
        client.action("microk8s", "refresh", deadline=soon(0.1))


def test_assertions_are_sent_as_they_are(server, client, tmp_path):
    file = tmp_path / "microk8s_1.assert"
    file.write_bytes(b"type: account-key\n\nAc...")
    server.script("POST /v2/assertions", sync(None))
    client.assert_from(file)
    assert server.seen[0][2] == file.read_bytes()
