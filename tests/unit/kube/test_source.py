"""List and watch against a real HTTP server that speaks as the Kubernetes API does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from podwire.agent.model import NodeInfo
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.source import FileSource, KubernetesSource

from .test_nodes import node


class Api:
    """Answers to give, requests that came."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = [node()]
        self.events: list[dict[str, Any]] = []
        self.page = 1
        self.failing = False
        self.gone = False
        self.lists = 0
        self.patches: list[tuple[str, dict[str, Any], str]] = []
        self.versions: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        api: Api = self.server.api  # type: ignore[attr-defined]
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if api.failing:
            self._answer(503, {"kind": "Status", "message": "etcd is away"})
        elif query.get("watch"):
            self._watch(api, query)
        else:
            api.lists += 1
            start = int(query.get("continue", 0))
            items = api.objects[start : start + api.page]
            more = str(start + api.page) if start + api.page < len(api.objects) else ""
            self._answer(200, {"items": items, "metadata": {"resourceVersion": "10", "continue": more}})

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        patch = (self.path, json.loads(body), self.headers["Content-Type"])
        self.server.api.patches.append(patch)  # type: ignore[attr-defined]
        self._answer(200, {})

    def _watch(self, api: Api, query: dict[str, str]) -> None:
        api.versions.append(query["resourceVersion"])
        if api.gone:
            api.gone = False
            self._answer(410, {"kind": "Status", "message": "too old resource version"})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline and not api.failing:
            while api.events:
                data = json.dumps(api.events.pop(0)).encode() + b"\n"
                for part in (data[:20], data[20:]):  # an event may arrive in pieces
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.flush()
            time.sleep(0.01)
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Api, Path]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.api = Api()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    yield server.api, kubeconfig  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def wait_for(question: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_changes_are_delivered_and_an_outage_keeps_the_last_state(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    server.objects = [node("n1"), node("n2"), node("n3")]
    seen: list[tuple[NodeInfo, ...]] = []
    source = KubernetesSource(kubeconfig, seen.append)
    source.start()
    try:
        wait_for(lambda: seen)
        assert [item.name for item in seen[0]] == ["n1", "n2", "n3"]  # over three pages
        server.events.append({"type": "DELETED", "object": node("n2")})
        wait_for(lambda: len(seen) == 2)
        assert [item.name for item in seen[1]] == ["n1", "n3"]
        server.failing = True
        wait_for(lambda: not source.connected)
        assert len(seen) == 2
        server.objects = [node("n1")]
        server.failing = False
        wait_for(lambda: len(seen) == 3)
        assert [item.name for item in seen[2]] == ["n1"]
        assert source.connected
    finally:
        source.stop()


def test_watch_goes_on_where_it_ended_and_lists_again_when_that_is_too_old(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    seen: list[tuple[NodeInfo, ...]] = []
    source = KubernetesSource(kubeconfig, seen.append)
    source.start()
    try:
        server.events.append({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "42"}}})
        wait_for(lambda: "42" in server.versions)
        assert server.versions[0] == "10"
        assert server.lists == 1
        server.gone = True
        wait_for(lambda: server.lists == 2)
        assert source.connected
        assert len(seen) == 1  # the same nodes again are no news
    finally:
        source.stop()


def test_annotation_is_a_patch_of_nothing_else(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    KubeClient(kubeconfig).annotate_node("n1", {"podwire.io/health-address": "10.1.1.1"})
    path, patch, kind = server.patches[0]
    assert path == "/api/v1/nodes/n1"
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
        assert seen[1] == (NodeInfo("n2"),)
    finally:
        source.stop()
