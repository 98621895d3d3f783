"""Nodes by list and watch against a real HTTP server, and from a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from podwire.agent.model import NodeInfo
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.reflector import Connection
from podwire.kube.source import FileSource, KubernetesSource

from .api_server import NODES, Api, wait_for
from .test_nodes import node


def connect(kubeconfig: Path) -> Connection:
    return Connection(partial(KubeClient, kubeconfig))


def test_changes_are_delivered_and_an_outage_keeps_the_last_state(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    server.objects[NODES] = [node("n1"), node("n2"), node("n3")]
    seen: list[tuple[NodeInfo, ...]] = []
    source = KubernetesSource(connect(kubeconfig), seen.append)
    source.start()
    try:
        wait_for(lambda: seen)
        assert [item.name for item in seen[0]] == ["n1", "n2", "n3"]  # over three pages
        server.events[NODES].append({"type": "DELETED", "object": node("n2")})
        wait_for(lambda: len(seen) == 2)
        assert [item.name for item in seen[1]] == ["n1", "n3"]
        server.failing = True
        wait_for(lambda: not source.connected)
        assert len(seen) == 2
        server.objects[NODES] = [node("n1")]
        server.gone = True  # what the watch would go on from is forgotten by now
        server.failing = False
        wait_for(lambda: len(seen) == 3)
        assert [item.name for item in seen[2]] == ["n1"]
        assert source.connected
    finally:
        source.stop()


def test_annotation_is_a_patch_of_nothing_else(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    KubeClient(kubeconfig).annotate_node("n1", {"podwire.io/health-address": "10.1.1.1"})
    method, path, patch, kind = server.writes[0]
    assert (method, path) == ("PATCH", "/api/v1/nodes/n1")
    assert patch == {"metadata": {"annotations": {"podwire.io/health-address": "10.1.1.1"}}}
    assert kind == "application/merge-patch+json"


def test_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"kubeconfig .*none cannot be used"):
        KubeClient(tmp_path / "none")


def test_file_is_read_again_when_it_changes_and_kept_when_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "nodes.yaml"
    path.write_text("- name: n1\n")
    seen: list[tuple[NodeInfo, ...]] = []
    source = FileSource(path, seen.append)
    source.start()
    try:
        wait_for(lambda: len(seen) == 1)
        path.write_text("- nonsense: [\n")
        wait_for(lambda: not source.connected)
        assert len(seen) == 1
        path.write_text("- name: n2\n")
        wait_for(lambda: len(seen) == 2)
        assert seen[1] == (NodeInfo("n2", hostname="n2"),)
    finally:
        source.stop()
