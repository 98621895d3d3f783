"""Requests over a real unix socket: no snapd, a restarting one, something else."""

from __future__ import annotations

import json
import threading
import time

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd import Snapd
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import (
    SnapdError,
    SnapdUnavailableError,
)

from tests.unit.plugins.snapd.server import Server, accepted, change, soon, sync


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


def test_something_else_on_the_socket_is_named(server, client, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda _: (_ for _ in ()).throw(ValueError("no JSON")))
    server.script("GET /v2/system-info", sync({}))
    with pytest.raises(SnapdError, match="no snapd reply"):
        client.version()
