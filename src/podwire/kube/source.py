"""Where the agent learns of the cluster's nodes: the Kubernetes API, or a file for hosts without one.

A source runs in its own thread and calls back with the complete set of nodes whenever it changed. When the
API is lost the last set stays valid: nothing is called, only the status says so."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import yaml

from podwire.agent.model import HEALTH_ANNOTATION, NodeInfo
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.nodes import node_from_object

log = logging.getLogger(__name__)

OnNodes = Callable[[tuple[NodeInfo, ...]], None]
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0
FILE_INTERVAL = 1.0
HTTP_GONE = 410


class NodeSource(Protocol):
    """``connected`` says whether what was delivered is current; ``detail`` why not, or from where."""

    connected: bool
    detail: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def publish_health_address(self, node: str, address: str) -> None:
        """Tell the other nodes where this node's health endpoint answers. Raises ApiError."""
        ...


class NodeTable:
    """Nodes by name, kept up to date by list and watch. Pure."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}

    def replace(self, objects: Iterable[dict[str, Any]]) -> bool:
        """Take a complete list; True when something changed."""
        nodes = {node.name: node for node in map(node_from_object, objects)}
        changed = nodes != self._nodes
        self._nodes = nodes
        return changed

    def apply(self, event: dict[str, Any]) -> bool:
        """Take one watch event; True when something changed."""
        node = node_from_object(event.get("object") or {})
        before = self._nodes.get(node.name)
        if event.get("type") in ("ADDED", "MODIFIED") and node.name:
            self._nodes[node.name] = node
        elif event.get("type") == "DELETED":
            self._nodes.pop(node.name, None)
        return self._nodes.get(node.name) != before

    def nodes(self) -> tuple[NodeInfo, ...]:
        return tuple(self._nodes[name] for name in sorted(self._nodes))


class KubernetesSource:
    """List and watch Nodes, for ever, with growing pauses while the API is away."""

    def __init__(self, kubeconfig: Path, on_nodes: OnNodes) -> None:
        self.connected = False
        self.detail = "not connected yet"
        self._kubeconfig = kubeconfig
        self._on_nodes = on_nodes
        self._client: KubeClient | None = None
        self._table = NodeTable()
        self._stop = threading.Event()
        # A daemon thread: it may sit in a read for a minute, and the process must not wait for that to end.
        self._thread = threading.Thread(target=self._run, name="kube-nodes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def publish_health_address(self, node: str, address: str) -> None:
        if self._client is None:
            raise ApiError("not connected to the Kubernetes API yet")
        self._client.annotate_node(node, {HEALTH_ANNOTATION: address})

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._follow()
                pause = FIRST_PAUSE
            except ApiError as error:
                if self.connected or self.detail != str(error):
                    log.warning("%s; keeping the last known nodes", error)
                self.connected, self.detail = False, str(error)
                # Spread: every agent of the cluster loses the API at the same moment.
                self._stop.wait(pause * random.uniform(0.7, 1.3))  # noqa: S311 - not a secret
                pause = min(pause * 2, LONGEST_PAUSE)

    def _follow(self) -> None:
        if self._client is None:
            self._client = KubeClient(self._kubeconfig)
        objects, version = self._client.list_nodes()
        first = not self.connected
        self.connected, self.detail = True, self._client.server
        if self._table.replace(objects) or first:
            self._on_nodes(self._table.nodes())
        while version and not self._stop.is_set():
            version = self._watch(self._client, version)

    def _watch(self, client: KubeClient, version: str) -> str:
        """Follow one watch; returns where to go on, empty to list again (the version has expired)."""
        try:
            return self._consume(client, version)
        except ApiError as error:
            if error.status == HTTP_GONE:
                return ""
            raise

    def _consume(self, client: KubeClient, version: str) -> str:
        for event in client.watch_nodes(version):
            if self._stop.is_set():
                return ""
            if event.get("type") == "ERROR":
                log.info(
                    "watch of Nodes ended: %s", (event.get("object") or {}).get("message", "no reason given")
                )
                return ""
            if self._table.apply(event):
                self._on_nodes(self._table.nodes())
            metadata = (event.get("object") or {}).get("metadata") or {}
            version = str(metadata.get("resourceVersion") or version)
        return version


class FileSource:
    """Nodes from a YAML file, read again when it changes: for hosts that have no Kubernetes API.

    The file is a list of ``{name, podCIDR, addresses: [...], healthAddress}``."""

    def __init__(self, path: Path, on_nodes: OnNodes) -> None:
        self.connected = False
        self.detail = f"{path} not read yet"
        self._path = path
        self._on_nodes = on_nodes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-file", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def publish_health_address(self, node: str, address: str) -> None:
        """Nothing to tell: the file's author states the health addresses."""

    def _run(self) -> None:
        seen: tuple[int, int] | None = None
        while True:
            try:
                status = self._path.stat()
                stamp = (status.st_mtime_ns, status.st_ino)
                if stamp != seen:
                    nodes = nodes_from_yaml(self._path.read_text(encoding="utf-8"))
                    seen = stamp
                    self.connected, self.detail = True, str(self._path)
                    self._on_nodes(nodes)
            except (OSError, ValueError, yaml.YAMLError) as error:
                if self.connected or self.detail != str(error):
                    log.error("node file %s: %s", self._path, error)
                self.connected, self.detail = False, str(error)
            if self._stop.wait(FILE_INTERVAL):
                return


def nodes_from_yaml(text: str) -> tuple[NodeInfo, ...]:
    """Raises ValueError naming the entry that is wrong."""
    items = yaml.safe_load(text)
    if not isinstance(items, list):
        raise ValueError("the node file is not a list of nodes")
    nodes = []
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ValueError(f"node {number} of the file has no name")
        nodes.append(
            node_from_object(
                {
                    "metadata": {
                        "name": item["name"],
                        "annotations": {HEALTH_ANNOTATION: item.get("healthAddress")},
                    },
                    "spec": {"podCIDR": item.get("podCIDR")},
                    "status": {
                        "addresses": [
                            {"type": "InternalIP", "address": a} for a in item.get("addresses") or ()
                        ]
                    },
                }
            )
        )
    return tuple(sorted(nodes, key=lambda node: node.name))
