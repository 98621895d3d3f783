"""A rollout that stopped between joining and the pod network goes on: nothing waits for a network there."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import NotReadyError
from ansible_collections.podwire.ebpf.plugins.modules import microk8s

from tests.unit.plugins.snapd.server import sync

NO_NETWORK = (
    "runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:not initialized"
)
NODE = {
    "status": {
        "conditions": [{"type": "Ready", "status": "False", "message": NO_NETWORK}],
        "nodeInfo": {"kubeletVersion": "v1.28.15"},
    }
}
PARAMS = {
    "state": "present",
    "channel": None,
    "snap": None,
    "snap_sha256": None,
    "prerequisites": [],
    "classic": True,
    "dangerous": True,
    "hold": False,
    "purge": False,
    "wait": True,
}


@pytest.fixture
def worker(tmp_path, server, client):
    """A worker that has joined and has no CNI configuration yet: snapd's answers, kubectl's, its files."""
    layout = Layout(tmp_path)
    for folder in (layout.snap, layout.args, layout.locks, layout.kubeconfig.parent):
        folder.mkdir(parents=True, exist_ok=True)
    layout.lock("clustered.lock").touch()
    layout.kubeconfig.touch()
    kubectl = layout.snap / "kubectl"
    kubectl.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(NODE)}\nEND\n")
    kubectl.chmod(0o755)
    server.replies["GET /v2/system-info"].append(sync({"version": "2.57.6"}))
    server.replies["GET /v2/changes?select=in-progress&for=microk8s"].append(sync([]))
    record = {"name": "microk8s", "version": "v1.28.15", "revision": "x1", "status": "active"}
    server.replies["GET /v2/snaps/microk8s"].append(sync({**record, "confinement": "classic"}))
    return SimpleNamespace(
        params=dict(PARAMS),
        check_mode=False,
        layout=layout,
        snapd=client,
        kubectl=Kubectl(layout),
        deadline=time.monotonic() + 0.1,
    )


def test_a_worker_without_a_network_is_ready_enough(worker):
    worker.params["network"] = False
    result = microk8s.work(worker)
    assert (result["ready"], result["changed"], result["role"]) == (True, False, "worker")


def test_it_is_not_where_a_network_is_asked_for(worker):
    worker.params["network"] = True
    with pytest.raises(NotReadyError, match="NetworkReady=false"):
        microk8s.work(worker)
