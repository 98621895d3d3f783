"""The client of snapd's REST API, spoken to over a real unix socket."""

from __future__ import annotations

import json
import threading
import time
from email.parser import BytesParser

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import snapd as snapd_module
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd import (
    AlreadyDoneError,
    ChangeConflictError,
    ChangeFailedError,
    ChangeTimeoutError,
    ChannelNotAvailableError,
    ConfinementRefusedError,
    DiskFullError,
    NetworkTroubleError,
    NotPermittedError,
    Snapd,
    SnapdError,
    SnapdUnavailableError,
    error_from,
    parse_snap_yaml,
    task_durations,
)

from tests.unit.plugins.snapd_server import Server, accepted, change, error, sync


@pytest.fixture
def socket_path(tmp_path):
    return tmp_path / "snapd.socket"


@pytest.fixture
def server(socket_path):
    server = Server(socket_path)
    yield server
    server.stop()


@pytest.fixture
def client(socket_path):
    return Snapd(str(socket_path), timeout=5, restart_patience=5, poll_interval=0.01)


def soon(seconds=5.0):
    return time.monotonic() + seconds


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


@pytest.mark.parametrize("status", ["Undone", "Hold", "Error"])
def test_only_done_is_success(server, client, status):
    server.script("POST /v2/snaps/microk8s", accepted("7"))
    server.script("GET /v2/changes/7", change(status))
    with pytest.raises(ChangeFailedError):
        client.action("microk8s", "install", deadline=soon())


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


def test_no_snapd_says_so_at_once(client):
    began = time.monotonic()
    with pytest.raises(SnapdUnavailableError, match="no snapd on this machine") as caught:
        client.version()
    assert "apt-get install snapd" in caught.value.hint
    assert time.monotonic() - began < 1


def test_a_socket_without_a_listener_is_tried_for_a_while(socket_path):
    Server(socket_path).stop()
    client = Snapd(str(socket_path), restart_patience=0.4)
    with pytest.raises(SnapdUnavailableError, match="does not answer"):
        client.version()


def test_requests_survive_a_restart_of_snapd(socket_path, client):
    first = Server(socket_path)
    first.script("POST /v2/snaps/snapd", accepted("7"))
    first.script("GET /v2/changes/7", change("Doing"), "hang up")
    second = []

    def restart():
        while len(first.seen) < 3:
            time.sleep(0.01)
        first.stop()
        socket_path.unlink()
        time.sleep(0.2)
        second.append(Server(socket_path))
        second[0].script("GET /v2/changes/7", change("Done"))

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        assert client.action("snapd", "install", deadline=soon())["status"] == "Done"
    finally:
        thread.join()
        second[0].stop()


def test_a_post_that_broke_off_is_not_sent_twice(server, client):
    server.script("POST /v2/snaps/microk8s", "hang up")
    with pytest.raises(SnapdUnavailableError, match="closed the connection during POST"):
        client.action("microk8s", "remove", deadline=soon())
    assert server.requests() == ["POST /v2/snaps/microk8s"]


def test_a_file_is_uploaded_as_multipart_with_its_name(server, client, tmp_path):
    file = tmp_path / "microk8s_1.snap"
    content = b"\r\n--snap\0" * 300_000
    file.write_bytes(content)
    server.script("POST /v2/snaps", accepted("7"))
    server.script("GET /v2/changes/7", change("Done"))
    client.sideload(file, "microk8s", classic=True, dangerous=True, deadline=soon())
    _, headers, body = server.seen[0]
    message = BytesParser().parsebytes(
        b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
    )
    parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
    assert parts["action"].get_payload().strip() == "install"
    assert parts["classic"].get_payload() == "true"
    assert parts["dangerous"].get_payload() == "true"
    assert parts["snap"].get_filename() == "microk8s_1.snap"
    start = body.index(b"octet-stream\r\n\r\n") + len(b"octet-stream\r\n\r\n")
    assert body[start : start + len(content)] == content


def test_an_upload_is_never_held_in_memory(server, client, tmp_path, monkeypatch):
    file = tmp_path / "big.snap"
    with file.open("wb") as stream:
        stream.truncate(5 * snapd_module.UPLOAD_CHUNK + 3)
    pieces = []
    real = snapd_module._Upload.__iter__

    def watched(self):
        for piece in real(self):
            pieces.append(len(piece))
            yield piece

    monkeypatch.setattr(snapd_module._Upload, "__iter__", watched)
    server.script("POST /v2/snaps", accepted("7"))
    server.script("GET /v2/changes/7", change("Done"))
    client.sideload(file, "big", classic=False, dangerous=False, deadline=soon())
    assert max(pieces) == snapd_module.UPLOAD_CHUNK
    assert len(server.seen[0][2]) > 5 * snapd_module.UPLOAD_CHUNK


def test_a_full_disk_is_told_although_snapd_stops_reading(server, client, tmp_path):
    file = tmp_path / "big.snap"
    with file.open("wb") as stream:
        stream.truncate(64 * snapd_module.UPLOAD_CHUNK)
    server.script("POST /v2/snaps", "early refusal")
    with pytest.raises(DiskFullError) as caught:
        client.sideload(file, "big", classic=False, dangerous=False, deadline=soon())
    assert "/var/lib/snapd" in caught.value.hint


def test_assertions_are_sent_as_they_are(server, client, tmp_path):
    file = tmp_path / "microk8s_1.assert"
    file.write_bytes(b"type: account-key\n\nAc...")
    server.script("POST /v2/assertions", sync(None))
    client.assert_from(file)
    assert server.seen[0][2] == file.read_bytes()


def test_something_else_on_the_socket_is_named(server, client, monkeypatch):
    monkeypatch.setattr(snapd_module.json, "loads", lambda _: (_ for _ in ()).throw(ValueError("no JSON")))
    server.script("GET /v2/system-info", sync({}))
    with pytest.raises(SnapdError, match="no snapd reply"):
        client.version()


@pytest.mark.parametrize(
    ("status", "kind", "family"),
    [
        (401, "login-required", NotPermittedError),
        (403, "", NotPermittedError),
        (400, "snap-already-installed", AlreadyDoneError),
        (400, "snap-no-update-available", AlreadyDoneError),
        (400, "snap-needs-classic", ConfinementRefusedError),
        (400, "snap-not-classic", ConfinementRefusedError),
        (400, "snap-needs-classic-system", ConfinementRefusedError),
        (409, "", ChangeConflictError),
        (507, "insufficient-disk-space", DiskFullError),
        (507, "", DiskFullError),
        (400, "network-timeout", NetworkTroubleError),
        (400, "something-new", SnapdError),
    ],
)
def test_error_kinds_become_exceptions(status, kind, family):
    assert type(error_from(status, {"message": "no", "kind": kind})) is family


def test_an_error_without_a_kind_is_judged_by_its_words():
    assert isinstance(error_from(500, {"message": "write: no space left on device"}), DiskFullError)
    assert isinstance(
        error_from(400, {"message": "persistent network error: dial tcp: lookup"}), NetworkTroubleError
    )
    assert "dangerous" in error_from(400, {"message": "cannot find signatures with metadata"}).hint
    assert str(error_from(400, None)) == "snapd: HTTP status 400"


def test_an_unknown_channel_lists_those_that_exist():
    value = {
        "snap-name": "microk8s",
        "channel": "1.99/stable",
        "architecture": "amd64",
        "releases": [
            {"architecture": "amd64", "channel": "1.28/stable"},
            {"architecture": "arm64", "channel": "1.27/edge"},
        ],
    }
    found = error_from(404, {"message": "no", "kind": "snap-channel-not-available", "value": value})
    assert isinstance(found, ChannelNotAvailableError)
    assert found.hint == "There are: 1.27/edge (arm64), 1.28/stable."


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


def test_a_snap_file_is_described_by_its_own_yaml(tmp_path):
    text = 'name: microk8s\nversion: "v1.28.15"\nconfinement: classic\napps:\n  x:\n    name: wrong\n'
    found = parse_snap_yaml(tmp_path / "a.snap", text)
    assert (found.name, found.version, found.confinement, found.type) == (
        "microk8s",
        "v1.28.15",
        "classic",
        "app",
    )
    assert found.assertions is None
    (tmp_path / "a.assert").write_text("")
    assert found.assertions == tmp_path / "a.assert"
