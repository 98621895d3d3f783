"""A small Kubernetes API that remembers: objects are created, merged, deleted, listed and watched over HTTP,
with resource versions and preconditions as the real one has them."""

from __future__ import annotations

import copy
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from podwire.net import netns

RESOURCES: dict[str, tuple[str, bool]] = {
    "/api/v1/nodes": ("Node", False),
    "/api/v1/namespaces": ("Namespace", False),
    "/api/v1/pods": ("Pod", True),
    "/api/v1/services": ("Service", True),
    "/api/v1/events": ("Event", True),
    "/apis/discovery.k8s.io/v1/endpointslices": ("EndpointSlice", True),
    "/apis/networking.k8s.io/v1/networkpolicies": ("NetworkPolicy", True),
    "/apis/cilium.io/v2/ciliumnetworkpolicies": ("CiliumNetworkPolicy", True),
    "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies": ("CiliumClusterwideNetworkPolicy", False),
    "/apis/podwire.io/v1/identities": ("Identity", False),
    "/apis/podwire.io/v1/nodeendpoints": ("NodeEndpoints", False),
}
"""Path of the collection -> kind, and whether its objects live in namespaces."""
GROUP_OF_DISCOVERY = "/apis/discovery.k8s.io"


class ClusterApi:
    """The objects, and what happened to them. ``away``: every request fails."""

    def __init__(self) -> None:
        self.away = False
        self.missing: set[str] = set()
        """Collections that are not served."""
        self.writes: list[tuple[str, str]] = []
        """Method and path of each write that was taken."""
        self._changed = threading.Condition()
        self._versions = itertools.count(100)
        self._objects: dict[str, dict[str, dict[str, Any]]] = {path: {} for path in RESOURCES}
        self._events: dict[str, list[tuple[int, dict[str, Any]]]] = {path: [] for path in RESOURCES}
        self._version = 99

    # -- for tests ---------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Of the last change of anything."""
        return self._version

    def path_of(self, kind: str) -> str:
        return next(path for path, (known, _) in RESOURCES.items() if known == kind)

    def apply(self, value: dict[str, Any]) -> dict[str, Any]:
        """Create an object, or replace its spec and metadata; returns it as it is stored."""
        path = self.path_of(value["kind"])
        with self._changed:
            known = self._objects[path].get(_key(value))
            fresh = copy.deepcopy(value)
            if known is not None:
                fresh.setdefault("status", known.get("status", {}))
                fresh["metadata"] = {**fresh["metadata"], "uid": known["metadata"]["uid"]}
                same = all(known.get(part) == fresh.get(part) for part in ("spec", "specs"))
                generation = known["metadata"]["generation"]
                fresh["metadata"]["generation"] = generation if same else generation + 1
            return self._store(path, fresh, "ADDED" if known is None else "MODIFIED")

    def remove(self, kind: str, key: str) -> int:
        """Delete an object by ``namespace/name`` or ``name``; returns the version of that."""
        path = self.path_of(kind)
        with self._changed:
            value = self._objects[path].pop(key)
            self._note(path, value, "DELETED")
            return self._version

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        with self._changed:
            value = self._objects[self.path_of(kind)].get(key)
            return copy.deepcopy(value)

    def all(self, kind: str) -> list[dict[str, Any]]:
        with self._changed:
            return copy.deepcopy(list(self._objects[self.path_of(kind)].values()))

    def observed(self, node: str, kind: str) -> int:
        """Up to which version a node says to enforce policies of a kind; 0 when it says nothing."""
        value = self.get("NodeEndpoints", node) or {}
        plural = self.path_of(kind).rpartition("/")[2]
        return int((value.get("status") or {}).get("observed", {}).get(plural) or 0)

    # -- for requests ------------------------------------------------------------------------------

    def _store(self, path: str, value: dict[str, Any], kind: str) -> dict[str, Any]:
        value["metadata"].setdefault("uid", f"uid-{next(self._versions)}")
        value["metadata"].setdefault("generation", 1)
        self._note(path, value, kind)
        self._objects[path][_key(value)] = value
        return copy.deepcopy(value)

    def _note(self, path: str, value: dict[str, Any], kind: str) -> None:
        self._version = next(self._versions)
        value["metadata"]["resourceVersion"] = str(self._version)
        self._events[path].append((self._version, {"type": kind, "object": copy.deepcopy(value)}))
        self._changed.notify_all()

    def create(self, path: str, value: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._changed:
            if _key(value) in self._objects[path]:
                return 409, _status(409, f"{_key(value)} already exists")
            return 201, self._store(path, value, "ADDED")

    def merge(self, path: str, key: str, patch: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._changed:
            known = self._objects[path].get(key)
            if known is None:
                return 404, _status(404, f"{key} not found")
            version = (patch.get("metadata") or {}).get("resourceVersion")
            if version and version != known["metadata"]["resourceVersion"]:
                return 409, _status(409, "the object has been modified")
            fresh = _merged(known, patch)
            fresh["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"]
            if fresh == known:
                return 200, copy.deepcopy(known)
            return 200, self._store(path, fresh, "MODIFIED")

    def drop(self, path: str, key: str, options: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._changed:
            known = self._objects[path].get(key)
            if known is None:
                return 404, _status(404, f"{key} not found")
            version = (options.get("preconditions") or {}).get("resourceVersion")
            if version and version != known["metadata"]["resourceVersion"]:
                return 409, _status(409, "the object has been modified")
            self._note(path, self._objects[path].pop(key), "DELETED")
            return 200, _status(200, "deleted")

    def list(self, path: str, node: str | None) -> dict[str, Any]:
        with self._changed:
            items = [copy.deepcopy(item) for item in self._objects[path].values() if _on(item, node)]
            return {"items": items, "metadata": {"resourceVersion": str(self._version)}}

    def events(
        self, path: str, node: str | None, since: int, deadline: float
    ) -> Iterator[list[dict[str, Any]]]:
        """What happened after a version, as it happens."""
        while not self.away and time.monotonic() < deadline:
            with self._changed:
                found = [(version, event) for version, event in self._events[path] if version > since]
                if not found:
                    self._changed.wait(0.2)
                    continue
            since = found[-1][0]
            yield [event for _, event in found if _on(event["object"], node)]


def _key(value: dict[str, Any]) -> str:
    metadata = value["metadata"]
    return "/".join(part for part in (metadata.get("namespace"), metadata["name"]) if part)


def _on(value: dict[str, Any], node: str | None) -> bool:
    return node is None or value.get("spec", {}).get("nodeName") == node


def _merged(known: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(known) if isinstance(known, dict) else {}
    for key, item in patch.items():
        if item is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), item)
    return result


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def api(self) -> ClusterApi:
        return self.server.api  # type: ignore[attr-defined, no-any-return]

    def _place(self) -> tuple[str, str, dict[str, str]]:
        """Collection, key (empty for the collection itself) and query of the request."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        head = 2 if parts[0] == "api" else 3
        rest, namespace = parts[head:], ""
        if rest[:1] == ["namespaces"] and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        path = "/" + "/".join([*parts[:head], *rest[:1]])
        name = rest[1] if len(rest) > 1 else ""
        return path, "/".join(part for part in (namespace, name) if part) if name else "", query

    def _known(self, path: str) -> bool:
        return path in RESOURCES and path not in self.api.missing

    def do_GET(self) -> None:
        path, key, query = self._place()
        if self.api.away:
            self._answer(503, _status(503, "etcd is away"))
        elif path == GROUP_OF_DISCOVERY:
            self._answer(200, {"versions": [{"version": "v1"}]})
        elif any(item.startswith(f"{path}/") for item in RESOURCES):
            names = [
                {"name": item.rpartition("/")[2]}
                for item in RESOURCES
                if item.startswith(f"{path}/") and self._known(item)
            ]
            self._answer(200 if names else 404, {"resources": names} if names else _status(404, "not found"))
        elif not self._known(path):
            self._answer(404, _status(404, "the server could not find the requested resource"))
        elif key:
            value = self.api.get(RESOURCES[path][0], key)
            self._answer(200 if value else 404, value or _status(404, f"{key} not found"))
        else:
            node = query.get("fieldSelector", "").partition("spec.nodeName=")[2] or None
            if query.get("watch"):
                self._watch(path, node, int(query["resourceVersion"]))
            else:
                self._answer(200, self.api.list(path, node))

    def _watch(self, path: str, node: str | None, since: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for events in self.api.events(path, node, since, time.monotonic() + 60):
                data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
                if data:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def do_POST(self) -> None:
        self._write(lambda path, key, body: self.api.create(path, body))

    def do_PATCH(self) -> None:
        self._write(self.api.merge)

    def do_DELETE(self) -> None:
        self._write(self.api.drop)

    def _write(self, do: Any) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        path, key, _ = self._place()
        if self.api.away:
            self._answer(503, _status(503, "etcd is away"))
        elif not self._known(path):
            self._answer(404, _status(404, "the server could not find the requested resource"))
        else:
            code, value = do(path, key, body)
            if code < 400:
                self.api.writes.append((self.command, self.path))
            self._answer(code, value)

    def _answer(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode()
        try:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(namespace: str, address: str, kubeconfig: Path) -> Iterator[ClusterApi]:
    """Serve in a network namespace; ``kubeconfig`` is written."""
    fd = netns.open_netns(f"/run/netns/{namespace}")
    with netns.closing(fd), netns.entered(fd):
        server = _Server((address, 6443), _Handler)
    server.api = ClusterApi()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://{address}:6443"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    try:
        yield server.api  # type: ignore[attr-defined]
    finally:
        server.api.away = True  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
