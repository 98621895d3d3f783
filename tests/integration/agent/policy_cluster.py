"""Nodes with agents that follow one API, pods with labels, and traffic between them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import conversation
from .cluster_api import ClusterApi, serving
from .lab import Network, Node, Pod, eventually

SCRIPT = str(conversation.__file__)
GATEWAY = "10.200.0.254"
"""Where the API answers: an address outside the cluster."""


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


class PolicyCluster:
    """A network of nodes and its API."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self._stack = contextlib.ExitStack()
        self._kubeconfig = directory / "kubeconfig"
        self.api: ClusterApi = self._stack.enter_context(serving(network.switch, GATEWAY, self._kubeconfig))
        self.api.apply({"kind": "Namespace", "metadata": {"name": "default"}})

    def add_node(self, mode: str = "ebpf", **settings: Any) -> Node:
        """A node with a ready agent."""
        node = self.network.add_node(
            node_source="kubernetes", kubeconfig=str(self._kubeconfig), **{"health": False, **settings}
        )
        self.api.apply(
            {
                "kind": "Node",
                "metadata": {"name": node.name},
                "spec": {"podCIDR": node.pod_cidr},
                "status": {"addresses": [{"type": "InternalIP", "address": node.address}]},
            }
        )
        node.load(mode)
        node.start()
        eventually(lambda: node.get("/v1/status")["policies"]["synced"], 20)
        return node

    def add_pod(self, node: Node, name: str, ports: dict[str, int] | None = None, **labels: str) -> Pod:
        self.label(node, name, ports, **labels)
        return node.add(name)

    def label(self, node: Node, name: str, ports: dict[str, int] | None = None, **labels: str) -> None:
        """The pod's object; ``ports`` are named ones of TCP."""
        named = [{"name": port, "containerPort": number} for port, number in (ports or {}).items()]
        self.api.apply(
            {
                "kind": "Pod",
                "metadata": {"namespace": "default", "name": name, "labels": labels},
                "spec": {"nodeName": node.name, "containers": [{"name": "c", "ports": named}]},
            }
        )

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply policies and wait until every node says that it enforces them."""
        for value in objects:
            stored = self.api.apply(value)
            self.await_version(value["kind"], int(stored["metadata"]["resourceVersion"]))

    def remove(self, kind: str, name: str) -> None:
        key = name if kind == "CiliumClusterwideNetworkPolicy" else f"default/{name}"
        self.await_version(kind, self.api.remove(kind, key))

    def await_version(self, kind: str, version: int) -> None:
        for node in self.network.nodes:
            eventually(lambda node=node: self.api.observed(node.name, kind) >= version)

    def serve(self, pod: Pod, number: int, protocol: str = "tcp") -> None:
        """A server in a pod; it answers with the pod's name."""
        process = pod.popen(sys.executable, SCRIPT, "serve", pod.name, protocol, str(number))
        self._stack.callback(_end, process)
        assert process.stdout
        assert process.stdout.readline().strip() == "ready"

    def close(self) -> None:
        self._stack.close()


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


def timed(function: Any) -> float:
    started = time.monotonic()
    function()
    return time.monotonic() - started
