"""Where the agent learns of the cluster's nodes: the Kubernetes API, or a file for hosts without one.

A source runs in its own thread and calls back with the complete set of nodes whenever it changed. When the
API is lost the last set stays valid: nothing is called, only the status says so."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import yaml

from podwire.agent.model import HEALTH_ANNOTATION, NodeInfo
from podwire.kube.client import NODES
from podwire.kube.nodes import HOSTNAME_LABEL, ZONE_LABEL, node_from_object
from podwire.kube.reflector import Change, Connection, Reflector, Resource, fixed

log = logging.getLogger(__name__)

OnNodes = Callable[[tuple[NodeInfo, ...]], None]
FILE_INTERVAL = 1.0


class NodeSource(Protocol):
    """``connected`` says whether what was delivered is current; ``detail`` why not, or from where."""

    @property
    def connected(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def publish_health_address(self, node: str, address: str) -> None:
        """Tell the other nodes where this node's health endpoint answers. Raises ApiError."""
        ...


class NodeTable:
    """Nodes by name, complete once a list is. Pure."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}
        self._shown: tuple[NodeInfo, ...] | None = None

    def apply(self, changes: Sequence[Change[NodeInfo]], complete: bool) -> bool:
        """Take changes; True when ``nodes`` shows others than before."""
        for name, node in changes:
            if node is None:
                self._nodes.pop(name, None)
            elif name:
                self._nodes[name] = node
        if not complete:
            return False
        before, self._shown = self._shown, tuple(self._nodes[name] for name in sorted(self._nodes))
        return self._shown != before

    def nodes(self) -> tuple[NodeInfo, ...]:
        return self._shown or ()


class KubernetesSource:
    """Nodes as the Kubernetes API has them."""

    def __init__(self, connection: Connection, on_nodes: OnNodes) -> None:
        self._connection = connection
        self._on_nodes = on_nodes
        self._table = NodeTable()
        self._reflector = Reflector(connection, Resource("Nodes", fixed(NODES), node_from_object), self._take)

    @property
    def connected(self) -> bool:
        return self._reflector.connected

    @property
    def detail(self) -> str:
        return self._reflector.detail

    def start(self) -> None:
        self._reflector.start()

    def stop(self) -> None:
        self._reflector.stop()

    def publish_health_address(self, node: str, address: str) -> None:
        self._connection.client().annotate_node(node, {HEALTH_ANNOTATION: address})

    def _take(self, changes: Sequence[Change[NodeInfo]], complete: bool) -> None:
        if self._table.apply(changes, complete):
            self._on_nodes(self._table.nodes())


class FileSource:
    """Nodes from a YAML file, read again when it changes: for hosts that have no Kubernetes API.

    The file is a list of ``{name, podCIDR, addresses: [...], healthAddress, zone}``."""

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
                        "labels": {ZONE_LABEL: item.get("zone"), HOSTNAME_LABEL: item["name"]},
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
