"""Nodes with agents that follow one API, pods with labels, and traffic between them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.unit.kube.cluster_api import (
    CILIUM_CLUSTERWIDE_POLICIES,
    CILIUM_POLICIES,
    NETWORK_POLICIES,
    NODE_ENDPOINTS,
    key_of,
)

from . import conversation
from .cluster import API_ADDRESS, Cluster
from .lab import Network, Node, Pod, eventually

SCRIPT = str(conversation.__file__)
GATEWAY = API_ADDRESS
"""An address outside the cluster."""
COLLECTIONS = {
    "NetworkPolicy": NETWORK_POLICIES,
    "CiliumNetworkPolicy": CILIUM_POLICIES,
    "CiliumClusterwideNetworkPolicy": CILIUM_CLUSTERWIDE_POLICIES,
}


def cnp(name: str, subject: dict[str, str], **spec: Any) -> dict[str, Any]:
    """A CiliumNetworkPolicy in the namespace default."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"endpointSelector": {"matchLabels": subject}, **spec},
    }


def knp(name: str, subject: dict[str, str], **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy in the namespace default."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": subject}, **spec},
    }


def from_app(app: str, *ports: int) -> dict[str, Any]:
    """An ingress entry: pods of an app, on ports of TCP."""
    entry: dict[str, Any] = {"fromEndpoints": [{"matchLabels": {"app": app}}]}
    if ports:
        entry["toPorts"] = [{"ports": [{"port": str(port), "protocol": "TCP"} for port in ports]}]
    return entry


class PolicyCluster(Cluster):
    """A network of nodes whose API has policies."""

    def __init__(self, network: Network, directory: Path) -> None:
        super().__init__(network, directory)
        self._stack = contextlib.ExitStack()

    def enforcing(self, mode: str = "ebpf", **settings: Any) -> Node:
        """A node whose agent enforces what the API has."""
        node = self.add_node(mode=mode, **settings)
        eventually(lambda: node.get("/v1/status")["policies"]["synced"], 20)
        return node

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply policies and wait until every node says that it enforces them."""
        for value in objects:
            stored = self.api.put(COLLECTIONS[value["kind"]], self._next(value))
            self.await_version(value["kind"], int(stored["metadata"]["resourceVersion"]))

    def _next(self, value: dict[str, Any]) -> dict[str, Any]:
        """The object as an API server would store it: its generation counts changes of its spec, and what its
        status says stays."""
        known = self.api.get(COLLECTIONS[value["kind"]], key_of(value))
        if known is None:
            return {**value, "metadata": {**value["metadata"], "generation": 1}}
        same = known["spec"] == value["spec"]
        generation = known["metadata"]["generation"] + (0 if same else 1)
        return {
            **value,
            "metadata": {**value["metadata"], "generation": generation},
            "status": known.get("status", {}),
        }

    def remove(self, kind: str, name: str) -> None:
        self.api.remove(COLLECTIONS[kind], f"default/{name}")
        self.await_version(kind, self.api.version)

    def await_version(self, kind: str, version: int) -> None:
        """Wait until every node says that it enforces what the API had at a version."""
        for node in self.network.nodes:
            eventually(lambda node=node: self.observed(node, kind) >= version)

    def observed(self, node: Node, kind: str) -> int:
        """Up to which version a node says to enforce policies of a kind; 0 when it says nothing."""
        value = self.api.get(NODE_ENDPOINTS, node.name) or {}
        plural = COLLECTIONS[kind].rpartition("/")[2]
        return int((value.get("status") or {}).get("observed", {}).get(plural) or 0)

    def all(self, collection: str) -> list[dict[str, Any]]:
        found = [self.api.get(collection, name) for name in sorted(self.api.names(collection))]
        return [value for value in found if value is not None]

    def serve(self, pod: Pod, number: int, protocol: str = "tcp") -> None:
        """A server in a pod; it answers with the pod's name."""
        process = pod.popen(sys.executable, SCRIPT, "serve", pod.name, protocol, str(number))
        self._stack.callback(_end, process)
        assert process.stdout
        assert process.stdout.readline().strip() == "ready"

    def close(self) -> None:
        self._stack.close()
        super().close()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def reaches(client: Pod | Node, address: str, port: int, seconds: float = 0.7) -> bool:
    """Does a connection of TCP get an answer in time?"""
    script = (
        "import socket, sys\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))\n"
        "s.sendall(b'?'); sys.exit(0 if s.recv(9) else 1)"
    )
    done = client.exec(sys.executable, "-c", script, address, str(port), str(seconds), check=False)
    return done.returncode == 0


@contextlib.contextmanager
def policy_cluster(network: Network, directory: Path) -> Iterator[PolicyCluster]:
    cluster = PolicyCluster(network, directory)
    try:
        yield cluster
    finally:
        for node in network.nodes:
            if node.agent is not None:
                node.kill()
        cluster.close()
