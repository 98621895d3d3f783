"""Publish what others must know of this node: its endpoints, and which policies it enforces.

One object per node, written by its own agent alone, in a thread of its own: a change goes out at once,
what follows within ``INTERVAL`` goes out together."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from podwire.agent import identity_objects as objects
from podwire.agent.identity_objects import API_VERSION, NODE_ENDPOINTS, NodeEndpointsObject
from podwire.agent.identity_view import RemoteEndpoint
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.reflector import Connection, version_of

log = logging.getLogger(__name__)

INTERVAL = 0.1
"""Seconds at least between two writes."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0
_NOT_FOUND = 404
_REMEMBERED = 32


class Publisher:
    """Methods may be called from any thread and do not block."""

    def __init__(self, connection: Connection, node: str) -> None:
        self.trouble = ""
        """Why the object is not what it should be; empty when it is."""
        self._connection = connection
        self._node = node
        self._uid = ""
        self._endpoints: tuple[RemoteEndpoint, ...] | None = None
        self._status: dict[str, Any] = {"observed": {}, "revision": 0, "problems": []}
        self._dirty = False
        self._own_versions: deque[str] = deque(maxlen=_REMEMBERED)
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="node-endpoints", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()

    # -- input -------------------------------------------------------------------------------------

    def set_endpoints(self, node_uid: str, endpoints: Sequence[RemoteEndpoint]) -> None:
        """Say who is here. Nothing is written before this was called with the node's uid once."""
        found = tuple(sorted(endpoints, key=lambda endpoint: endpoint.address))
        with self._wake:
            if (node_uid, found) != (self._uid, self._endpoints):
                self._uid, self._endpoints = node_uid, found
                self._must_write()

    def set_status(self, observed: Mapping[str, str], revision: int, problems: Sequence[str]) -> None:
        """Say what is enforced: the highest resource version per kind of policy, and the revision."""
        status = {"observed": dict(observed), "revision": revision, "problems": list(problems)}
        with self._wake:
            if status != self._status:
                self._status = status
                self._must_write()

    def seen(self, present: NodeEndpointsObject | None) -> None:
        """Take note of what the API has (None: nothing). What somebody else wrote is put right."""
        with self._wake:
            if self._endpoints is None or (present is not None and present.version in self._own_versions):
                return
            if present is None or set(present.endpoints) != set(self._endpoints):
                self._must_write()

    def _must_write(self) -> None:
        self._dirty = True
        self._wake.notify()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or (self._dirty and self._uid))
                if self._stopping:
                    return
                self._dirty = False
                body = self._body()
            wait = INTERVAL
            try:
                self._write(self._connection.client(), body)
                pause, self.trouble = FIRST_PAUSE, ""
            except Exception as error:
                if self.trouble != str(error):
                    log.warning("endpoints of this node are not published: %s", error)
                self.trouble, self._dirty = str(error) or type(error).__name__, True
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
            with self._wake:
                self._wake.wait_for(lambda: self._stopping, wait)

    def _body(self) -> dict[str, Any]:
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": self._uid}
        return {
            "apiVersion": API_VERSION,
            "kind": "NodeEndpoints",
            "metadata": {"name": self._node, "ownerReferences": [owner]},
            "spec": {"endpoints": [objects.endpoint_body(item) for item in self._endpoints or ()]},
            "status": self._status,
        }

    def _write(self, client: KubeClient, body: dict[str, Any]) -> None:
        """Raises ApiError."""
        try:
            stored = client.patch(f"{NODE_ENDPOINTS}/{quote(self._node, safe='')}", body)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            stored = client.create(NODE_ENDPOINTS, body)
        with self._wake:
            self._own_versions.append(version_of(stored))
