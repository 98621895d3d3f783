"""A real HTTP server that lists and watches as the Kubernetes API does: pages, resource versions, bookmarks,
410."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NODES = "/api/v1/nodes"


class Api:
    """Answers to give, requests that came. ``objects`` and ``events`` are by path of the collection."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {NODES: []}
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.documents: dict[str, dict[str, Any]] = {}
        """Answers to plain GETs: discovery."""
        self.page = 1
        self.version = "10"
        self.failing = False
        self.failing_writes = 0
        """Status that writes are refused with; 0: they are taken."""
        self.gone = False
        self.break_list_at: str | None = None
        """The continue token that is answered with 410, once."""
        self.watch_seconds = 0.3
        self.lists = 0
        self.watches = 0
        self.writes: list[tuple[str, str, dict[str, Any], str]] = []
        self.versions: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def api(self) -> Api:
        return self.server.api  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.api.failing:
            self._answer(503, {"kind": "Status", "message": "etcd is away"})
        elif url.path in self.api.documents:
            self._answer(200, self.api.documents[url.path])
        elif url.path not in self.api.objects:
            self._answer(
                404, {"kind": "Status", "message": "the server could not find the requested resource"}
            )
        elif query.get("watch"):
            self._watch(url.path, query)
        else:
            self._list(self.api.objects[url.path], query)

    def do_PATCH(self) -> None:
        self._write()

    def do_POST(self) -> None:
        self._write()

    def _write(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.api.failing_writes:
            self._answer(self.api.failing_writes, {"kind": "Status", "message": "refused"})
            return
        self.api.writes.append((self.command, self.path, body, self.headers["Content-Type"]))
        self._answer(200, {})

    def _list(self, objects: list[dict[str, Any]], query: dict[str, str]) -> None:
        api, token = self.api, query.get("continue")
        if token is not None and token == api.break_list_at:
            api.break_list_at = None
            self._answer(410, {"kind": "Status", "message": "the provided continue parameter is too old"})
            return
        if token is None:
            api.lists += 1
        start = int(token or 0)
        items = objects[start : start + api.page]
        more = str(start + api.page) if start + api.page < len(objects) else ""
        self._answer(200, {"items": items, "metadata": {"resourceVersion": api.version, "continue": more}})

    def _watch(self, path: str, query: dict[str, str]) -> None:
        api = self.api
        api.watches += 1
        api.versions.append(query["resourceVersion"])
        if api.gone:
            api.gone = False
            self._answer(410, {"kind": "Status", "message": "too old resource version"})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deadline = time.monotonic() + api.watch_seconds
        events = api.events[path]
        while time.monotonic() < deadline and not api.failing:
            while events:
                data = json.dumps(events.pop(0)).encode() + b"\n"
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


def serve(directory: Path) -> Iterator[tuple[Api, Path]]:
    """Serve until the generator goes on; gives the API and a kubeconfig in ``directory``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.api = Api()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    kubeconfig = directory / "kubeconfig"
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
