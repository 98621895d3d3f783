"""A real HTTP server that keeps objects as the Kubernetes API does: resource versions, create, merge-patch,
delete with preconditions, discovery, selectors, and watches that any number of clients may follow from
any version.

A write is judged by what is stored at that moment, so races between agents end as they do with a real API."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/pods"
EVENTS = "/api/v1/events"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
IDENTITIES = "/apis/podwire.io/v1/identities"
NODE_ENDPOINTS = "/apis/podwire.io/v1/nodeendpoints"
NETWORK_POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
CILIUM_POLICIES = "/apis/cilium.io/v2/ciliumnetworkpolicies"
CILIUM_CLUSTERWIDE_POLICIES = "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies"
BUILT_IN = (NODES, NAMESPACES, PODS, EVENTS, SLICES, NETWORK_POLICIES, "/api/v1/services")
CUSTOM = (IDENTITIES, NODE_ENDPOINTS, CILIUM_POLICIES, CILIUM_CLUSTERWIDE_POLICIES)

_PATH = re.compile(
    r"(?P<group>/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/status)?"
)


class Stored(NamedTuple):
    """One entry of the log."""

    version: int
    collection: str
    kind: str
    """ADDED, MODIFIED or DELETED."""
    value: dict[str, Any]


class ClusterApi:
    """The store. Methods may be called from any thread, and are what ``kubectl`` would do."""

    def __init__(self, collections: tuple[str, ...] = (*BUILT_IN, *CUSTOM)) -> None:
        self.guard = threading.Condition()
        self.objects: dict[str, dict[str, dict[str, Any]]] = {path: {} for path in collections}
        self.log: list[Stored] = []
        self.version = 10
        self.failing = False
        """Nobody gets an answer, watches end."""
        self.requests: list[tuple[str, str]] = []
        """(method, path) of every write that came."""

    def serve(self, *collections: str) -> None:
        """Serve further collections, as after their definitions were created."""
        with self.guard:
            for path in collections:
                self.objects.setdefault(path, {})

    def fail(self, *, failing: bool = True) -> None:
        with self.guard:
            self.failing = failing
            self.guard.notify_all()

    def get(self, path: str, name: str) -> dict[str, Any] | None:
        """An object by ``name`` or ``namespace/name``."""
        with self.guard:
            return copy.deepcopy(self.objects[path].get(name))

    def names(self, path: str) -> set[str]:
        with self.guard:
            return set(self.objects[path])

    def put(self, path: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object or replace it."""
        with self.guard:
            return self._store(path, copy.deepcopy(dict(value)))

    def merge(self, path: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        """Change parts of an object. Raises KeyError."""
        with self.guard:
            before = self.objects[path][name]
            after = merged(before, patch)
            after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
            return before if after == before else self._store(path, after)

    def remove(self, path: str, name: str, version: str = "") -> bool:
        """Delete an object, if it is at ``version`` where one is given."""
        with self.guard:
            value = self.objects[path][name]
            if version and value["metadata"]["resourceVersion"] != version:
                return False
            del self.objects[path][name]
            self._append(path, "DELETED", value)
            return True

    def _store(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        metadata = value.setdefault("metadata", {})
        known = self.objects[path].get(key_of(value))
        metadata.setdefault("uid", known["metadata"]["uid"] if known else f"uid-{self.version + 1}")
        stored = self._append(path, "MODIFIED" if known else "ADDED", value)
        self.objects[path][key_of(stored)] = stored
        return stored

    def _append(self, path: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        value = {**value, "metadata": {**value["metadata"], "resourceVersion": str(self.version)}}
        self.log.append(Stored(self.version, path, kind, value))
        self.guard.notify_all()
        return value


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def api(self) -> ClusterApi:
        return self.server.api  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.api.failing:
            self._refuse(503, "etcd is away")
        elif (found := self._discovery(url.path)) is not None:
            self._answer(200, found)
        elif (place := self._place(url.path)) is None:
            self._refuse(404, "the server could not find the requested resource")
        elif place.name:
            value = self.api.get(place.collection, place.key)
            if value is None:
                self._refuse(404, f"{place.key} not found")
            else:
                self._answer(200, value)
        elif query.get("watch"):
            self._watch(place, query)
        else:
            with self.api.guard:
                found_items = list(self.api.objects[place.collection].values())
                version = self.api.version
            items = [value for value in found_items if selected(value, place, query)]
            self._answer(200, {"items": items, "metadata": {"resourceVersion": str(version)}})

    def do_POST(self) -> None:
        body, place = self._begin()
        if place is None or body is None:
            return
        with self.api.guard:
            if key_of(body) in self.api.objects[place.collection]:
                self._refuse(409, f"{key_of(body)} already exists")
            else:
                self._answer(201, self.api.put(place.collection, body))

    def do_PATCH(self) -> None:
        body, place = self._begin()
        if place is None or body is None:
            return
        try:
            self._answer(200, self.api.merge(place.collection, place.key, body))
        except KeyError:
            self._refuse(404, f"{place.key} not found")

    def do_DELETE(self) -> None:
        body, place = self._begin()
        if place is None or body is None:
            return
        version = (body.get("preconditions") or {}).get("resourceVersion", "")
        try:
            if self.api.remove(place.collection, place.key, version):
                self._answer(200, {"kind": "Status", "status": "Success"})
            else:
                self._refuse(409, "the resourceVersion in the precondition does not match")
        except KeyError:
            self._refuse(404, f"{place.key} not found")

    # -- parts -------------------------------------------------------------------------------------

    def _begin(self) -> tuple[dict[str, Any] | None, Place | None]:
        """The body of a write and where it goes; answers itself when there is nothing to go to."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        place = self._place(urlsplit(self.path).path)
        self.api.requests.append((self.command, self.path))
        if self.api.failing:
            self._refuse(503, "etcd is away")
        elif place is None:
            self._refuse(404, "the server could not find the requested resource")
        else:
            if self.command == "POST" and place.namespace:
                body.setdefault("metadata", {}).setdefault("namespace", place.namespace)
            return body, place
        return None, None

    def _place(self, path: str) -> Place | None:
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        collection = f"{match['group']}/{match['plural']}"
        if collection not in self.api.objects:
            return None
        return Place(collection, match["namespace"] or "", unquote(match["name"] or ""))

    def _discovery(self, path: str) -> dict[str, Any] | None:
        """What the API says of a group, or of a version of one; None for other paths."""
        if not re.fullmatch(r"/apis/[^/]+(/v[^/]+)?|/api/v1", path):
            return None
        under = [collection for collection in self.api.objects if collection.startswith(f"{path}/")]
        if not under:
            return None
        if path.count("/") == 2 and path != "/api/v1":
            versions = sorted({collection.split("/")[3] for collection in under})
            return {"versions": [{"version": version} for version in versions]}
        return {"resources": [{"name": collection.rpartition("/")[2]} for collection in under]}

    def _watch(self, place: Place, query: Mapping[str, str]) -> None:
        api, version = self.api, int(query["resourceVersion"])
        deadline = time.monotonic() + float(query.get("timeoutSeconds", 60))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not api.failing and time.monotonic() < deadline:
                with api.guard:
                    news = [
                        item
                        for item in reversed_until(api.log, version)
                        if item.collection == place.collection and selected(item.value, place, query)
                    ]
                    version = max(version, api.version)
                    if not news:
                        api.guard.wait(1.0)
                        continue
                data = b"".join(
                    json.dumps({"type": item.kind, "object": item.value}).encode() + b"\n" for item in news
                )
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"kind": "Status", "code": status, "message": message})

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        with contextlib.suppress(OSError):  # the client was killed
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Place(NamedTuple):
    """What a path names."""

    collection: str
    namespace: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def key_of(value: Mapping[str, Any]) -> str:
    metadata = value["metadata"]
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def merged(value: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(value) if isinstance(value, Mapping) else {}
    for name, item in patch.items():
        if item is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), item)
    return result


def selected(value: Mapping[str, Any], place: Place, query: Mapping[str, str]) -> bool:
    """Is the object in the namespace, and do the query's selectors (equality only) hold?"""
    metadata = value["metadata"]
    if place.namespace and metadata.get("namespace") != place.namespace:
        return False
    terms = [(term, value) for term in query.get("fieldSelector", "").split(",") if term]
    for term, start in terms:
        path, _, wanted = term.partition("=")
        found: Any = start
        for part in path.split("."):
            found = (found or {}).get(part)
        if found != wanted:
            return False
    labels = metadata.get("labels") or {}
    wanted_labels = (term.partition("=") for term in query.get("labelSelector", "").split(",") if term)
    return all(labels.get(name) == wanted for name, _, wanted in wanted_labels)


def reversed_until(log: list[Stored], version: int) -> list[Stored]:
    """The entries after a version, oldest first."""
    found = []
    for item in reversed(log):
        if item.version <= version:
            break
        found.append(item)
    return found[::-1]


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Server:
    """Serves a store; bound in the network namespace that the caller is in."""

    def __init__(self, api: ClusterApi, address: str = "127.0.0.1") -> None:
        self.api = api
        self._server = _HttpServer((address, 0), Handler)
        self._server.api = api  # type: ignore[attr-defined]
        self.url = f"http://{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server."""
        value = {
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(value))
        return path

    def close(self) -> None:
        self.api.fail()
        self._server.shutdown()
        self._server.server_close()


def serve(directory: Path, api: ClusterApi | None = None) -> Iterator[tuple[ClusterApi, Path]]:
    """Serve until the generator goes on; gives the store and a kubeconfig in ``directory``."""
    server = Server(api or ClusterApi())
    yield server.api, server.kubeconfig(directory / "kubeconfig")
    server.close()
