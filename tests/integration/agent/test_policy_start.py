"""Pods that start are never open before their policy is in place, whatever is late or dies meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.agent.desired import Endpoint4
from podwire.agent.tables import EndpointsTable

from .cluster import local
from .lab import Network, Node, eventually, finish
from .policy_cluster import PolicyCluster, cnp


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[PolicyCluster]:
    cluster = PolicyCluster(network, tmp_path)
    yield cluster
    cluster.close()


class Watcher:
    """Looks at the endpoints' map all the time; remembers every value that a pod ever had there."""

    def __init__(self, node: Node) -> None:
        self._table = EndpointsTable(lambda: node.datapath.map("podwire_endpoints4"))
        self.seen: set[Endpoint4] = set()
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.0005):
            self.seen.update(value for value in self._table.read().values() if not value.host)
            self.looks += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def guarded(cluster: PolicyCluster) -> Node:
    """A node, and a policy that refuses everything towards pods of the app web."""
    node = cluster.enforcing()
    cluster.apply(cnp("web", {"app": "web"}, ingress=[{}]))
    return node


def test_pods_are_in_no_map_before_their_policy_is(cluster: PolicyCluster, guarded: Node) -> None:
    watcher = Watcher(guarded)
    try:
        for number in range(12):
            name = f"web{number}"
            guarded.new_netns(name)
            process = guarded.cni_process("ADD", name, guarded.cni_config())
            cluster.pod(guarded, name, {"app": "web", "copy": str(number)})  # the object comes late
            code, result = finish(process)
            assert code == 0, result
            address = result["ips"][0]["address"].partition("/")[0]
            guarded.pods[name].address = address
            assert local(guarded, guarded.pods[name]).policy > 1
    finally:
        watcher.stop()
    assert watcher.looks > 100
    assert len({value.slot for value in watcher.seen}) == 12
    assert not [value for value in watcher.seen if not value.policy]


@pytest.mark.parametrize("known", ["object", "no object"])
def test_an_agent_that_dies_while_a_pod_starts_leaves_nothing_open(
    cluster: PolicyCluster, guarded: Node, known: str
) -> None:
    cluster.api.fail()  # no identity can be had now
    guarded.new_netns("web")
    process = guarded.cni_process("ADD", "web", guarded.cni_config())
    eventually(guarded.records)
    watcher = Watcher(guarded)
    try:
        guarded.kill(signal.SIGKILL)
        assert finish(process)[0] == 1
        if known == "object":
            cluster.pod(guarded, "web", {"app": "web"})
        cluster.api.fail(failing=False)
        guarded.start()
        code, result = guarded.cni("ADD", "web")  # the runtime tries again
        assert code == 0, result
        guarded.pods["web"].address = result["ips"][0]["address"].partition("/")[0]
        entry = local(guarded, guarded.pods["web"])
        assert (entry.identity > 255 and entry.policy > 1) if known == "object" else entry.identity == 5
    finally:
        watcher.stop()
    assert not [value for value in watcher.seen if not value.policy]
