"""kube-proxy's translations and the datapath: whoever was translated on the way out is translated back.

nft rules stand for kube-proxy's, which do the same in the same hooks.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.integration.datapath import traffic
from tests.integration.datapath.cluster import ADDRESSES, NODE1, NODE2, NODE_PORT, VIP, WORLD, Cluster
from tests.integration.datapath.conftest import EVERY_WAY

BACKENDS = ["b", "c", "node2", "world", "a"]
PORT = 8080


@pytest.fixture
def service(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    for node in ("node1", "node2"):
        for chain in ("prerouting", "output"):
            cluster.run(node, "nft", "flush", "chain", "ip", "proxy", chain)


def translate(cluster: Cluster, node: str, match: str, backend: str, *, snat: bool = False) -> None:
    mark = "meta mark set 0x4000 " if snat else ""
    for chain in ("prerouting", "output"):
        cluster.nft(node, f"add rule ip proxy {chain} {match} {mark}dnat to {ADDRESSES[backend]}:{PORT}\n")


@pytest.mark.parametrize("cluster", EVERY_WAY, indirect=True)
@pytest.mark.parametrize("backend", ["b", "c", "node2", "world"])
def test_a_pod_reaches_a_service(service: Cluster, backend: str) -> None:
    for protocol in ("tcp", "udp"):
        translate(service, "node1", f"ip daddr {VIP} {protocol} dport 80", backend)
    seen = traffic.exchange(service, "a", backend, PORT, (VIP, 80))
    assert seen == ADDRESSES["node1" if backend == "world" else "a"]


def test_a_pod_reaches_itself_through_a_service(service: Cluster) -> None:
    """kube-proxy masquerades a pod's packets to itself: the backend sees the node."""
    for protocol in ("tcp", "udp"):
        translate(service, "node1", f"ip daddr {VIP} {protocol} dport 80", "a", snat=True)
    assert traffic.exchange(service, "a", "a", PORT, (VIP, 80)) == NODE1.ip


@pytest.mark.parametrize("backend", ["a", "c", "node2"])
def test_the_host_reaches_a_service(service: Cluster, backend: str) -> None:
    for protocol in ("tcp", "udp"):
        translate(service, "node1", f"ip daddr {VIP} {protocol} dport 80", backend)
    assert traffic.exchange(service, "node1", backend, PORT, (VIP, 80)) == NODE1.ip


@pytest.mark.parametrize("backend", ["a", "c"])
def test_the_world_reaches_a_node_port(service: Cluster, backend: str) -> None:
    for protocol in ("tcp", "udp"):
        translate(service, "node1", f"ip daddr {NODE1.ip} {protocol} dport {NODE_PORT}", backend, snat=True)
    assert traffic.exchange(service, "world", backend, PORT, (NODE1.ip, NODE_PORT)) == NODE1.ip


def test_a_node_port_with_local_traffic_policy_keeps_the_clients_address(service: Cluster) -> None:
    for protocol in ("tcp", "udp"):
        translate(service, "node1", f"ip daddr {NODE1.ip} {protocol} dport {NODE_PORT}", "a")
    assert traffic.exchange(service, "world", "a", PORT, (NODE1.ip, NODE_PORT)) == WORLD


@pytest.mark.parametrize("backend", ["b", "c"])
def test_a_pod_reaches_its_own_nodes_port(service: Cluster, backend: str) -> None:
    for protocol in ("tcp", "udp"):
        translate(service, "node1", f"ip daddr {NODE1.ip} {protocol} dport {NODE_PORT}", backend)
    assert traffic.exchange(service, "a", backend, PORT, (NODE1.ip, NODE_PORT)) == ADDRESSES["a"]


@pytest.mark.parametrize("backend", ["a", "b", "c"])
def test_a_pod_reaches_another_nodes_port(service: Cluster, backend: str) -> None:
    for protocol in ("tcp", "udp"):
        translate(service, "node2", f"ip daddr {NODE2.ip} {protocol} dport {NODE_PORT}", backend, snat=True)
    assert traffic.exchange(service, "a", backend, PORT, (NODE2.ip, NODE_PORT)) == NODE2.ip


@pytest.mark.parametrize("backend", ["b", "c"])
def test_errors_about_a_service_connection_reach_the_pod(service: Cluster, backend: str) -> None:
    translate(service, "node1", f"ip daddr {VIP} udp dport 80", backend)
    with service.socket("a", socket.SOCK_DGRAM) as client:
        client.connect((VIP, 80))
        client.send(b"nobody listens")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)


@pytest.mark.parametrize("backend", ["b", "c"])
@pytest.mark.parametrize("order", ["direct-first", "service-first"])
def test_one_source_port_serves_direct_and_service_connections_in_turn(
    service: Cluster, backend: str, order: str
) -> None:
    """Same pods, same ports: only the way differs, and the entries must follow."""
    translate(service, "node1", f"ip daddr {VIP} tcp dport 80", backend)
    direct, by_service = (ADDRESSES[backend], PORT), (VIP, 80)
    targets = [direct, by_service] if order == "direct-first" else [by_service, direct]
    traffic.in_turn(service, "a", backend, PORT, targets * 3)
