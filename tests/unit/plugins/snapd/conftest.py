"""A client and a server of snapd's REST API on one unix socket."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd import Snapd

from tests.unit.plugins.snapd.server import Server


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
