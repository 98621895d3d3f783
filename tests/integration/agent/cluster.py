"""A network of nodes with a Kubernetes API: the store of objects is a small one, everything else is real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from podwire.agent.desired import Endpoint4
from podwire.agent.identity_ipcache import Ipcache4
from podwire.agent.tables import EndpointsTable, IpcacheTable
from podwire.net import netns
from tests.unit.kube.cluster_api import (
    IDENTITIES,
    NAMESPACES,
    NODE_ENDPOINTS,
    NODES,
    PODS,
    SLICES,
    ClusterApi,
    Server,
)

from .lab import Network, Node, Pod, eventually

API_ADDRESS = "10.200.0.254"


class Cluster:
    """Nodes whose agents follow the API, which answers on the switch."""

    def __init__(self, network: Network, directory: Path, api: ClusterApi | None = None) -> None:
        self.network = network
        self.api = api or ClusterApi()
        fd = netns.open_netns(f"/run/netns/{network.switch}")
        with netns.closing(fd), netns.entered(fd):
            self._server = Server(self.api, API_ADDRESS)
        self.kubeconfig = self._server.kubeconfig(directory / "kubeconfig")
        self.namespace("default")

    def close(self) -> None:
        self._server.close()

    # -- objects -----------------------------------------------------------------------------------

    def namespace(self, name: str, **labels: str) -> None:
        self.api.put(NAMESPACES, {"metadata": {"name": name, "labels": labels}})

    def pod(self, node: Node, name: str, labels: dict[str, str], **spec: Any) -> None:
        """A Pod object, as the scheduler leaves it."""
        metadata = {"namespace": "default", "name": name, "labels": labels}
        self.api.put(PODS, {"metadata": metadata, "spec": {"nodeName": node.name, **spec}})

    def api_servers(self, *addresses: str) -> None:
        labels = {"kubernetes.io/service-name": "kubernetes"}
        metadata = {"namespace": "default", "name": "kubernetes", "labels": labels}
        endpoints = [{"addresses": list(addresses)}] if addresses else []
        self.api.put(SLICES, {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints})

    # -- nodes and pods ----------------------------------------------------------------------------

    def add_node(self, *, start: bool = True, mode: str = "ebpf", **settings: Any) -> Node:
        node = self.network.add_node(
            node_source="kubernetes", kubeconfig=str(self.kubeconfig), health=False, **settings
        )
        value = {
            "metadata": {"name": node.name},
            "spec": {"podCIDR": node.pod_cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": node.address}]},
        }
        self.api.put(NODES, value)
        node.load(mode)
        if start:
            node.start()
        return node

    def add_pod(self, node: Node, name: str, *, expect_identity: bool = True, **labels: str) -> Pod:
        """A pod with its object; with ``expect_identity`` until others can know it."""
        self.pod(node, name, labels)
        pod = node.add(name)
        if expect_identity:
            eventually(lambda: self.identity(node, pod) > 255)
        return pod

    # -- what there is -----------------------------------------------------------------------------

    def identity(self, node: Node, pod: Pod) -> int:
        """What the node's agent publishes for the pod; 0 for nothing."""
        value = self.api.get(NODE_ENDPOINTS, node.name) or {"spec": {"endpoints": []}}
        found = [item["identity"] for item in value["spec"]["endpoints"] if item["address"] == pod.address]
        return found[0] if found else 0

    def labels(self, number: int) -> dict[str, str]:
        value = self.api.get(IDENTITIES, str(number))
        assert value is not None
        labels: dict[str, str] = value["spec"]["labels"]
        return labels


def local(node: Node, pod: Pod) -> Endpoint4:
    """What the node's datapath has of its pod."""
    return _endpoints(node)[pod.address]


def locals_of(node: Node) -> list[Endpoint4]:
    """What the node's datapath has of its pods."""
    return [value for value in _endpoints(node).values() if not value.host]


def _endpoints(node: Node) -> dict[str, Endpoint4]:
    return EndpointsTable(lambda: node.datapath.map("podwire_endpoints4")).read()


def known_by(node: Node, address: str) -> Ipcache4 | None:
    """What the node's ipcache has for exactly this address."""
    return IpcacheTable(lambda: node.datapath.map("podwire_ipcache4")).read().get(f"{address}/32")
