"""Everybody reaches whom they should, with whole packets, in both modes."""

from __future__ import annotations

import errno
import socket
import struct
import time

import pytest

from podwire.datapath import GATEWAY_IP, HOST_MAC
from tests.integration.datapath import traffic
from tests.integration.datapath.cluster import (
    ADDRESSES,
    NODE1,
    NODE2,
    POD_A,
    POD_C,
    WORLD,
    WORLD_MTU,
    Cluster,
)
from tests.integration.datapath.conftest import EVERY_WAY

PEER, NEIGH = 0, 1
PATHS = [
    pytest.param(source, destination, id=f"{source}-{destination}")
    for source, destination in [
        ("a", "b"), ("a", "c"), ("c", "b"), ("a", "node1"), ("node1", "a"), ("a", "node2"), ("node2", "a"),
        ("a", "world"), ("c", "world"), ("node1", "world"), ("node1", "node2"),
    ]
]  # fmt: skip


@pytest.mark.parametrize(("source", "destination"), PATHS)
def test_ping(cluster: Cluster, source: str, destination: str) -> None:
    traffic.ping(cluster, source, ADDRESSES[destination])


@pytest.mark.parametrize("cluster", EVERY_WAY, indirect=True)
@pytest.mark.parametrize(("source", "destination"), PATHS)
def test_tcp(cluster: Cluster, source: str, destination: str) -> None:
    traffic.tcp(cluster, source, destination)


@pytest.mark.parametrize(("source", "destination"), PATHS)
def test_udp(cluster: Cluster, source: str, destination: str) -> None:
    traffic.udp(cluster, source, destination)


@pytest.mark.parametrize(("source", "destination"), PATHS)
def test_datagrams_in_fragments(cluster: Cluster, source: str, destination: str) -> None:
    for size in (1473, 9000, 60_000):
        traffic.udp(cluster, source, destination, size=size)
    traffic.ping(cluster, source, ADDRESSES[destination], size=5000)


@pytest.mark.parametrize("cluster", EVERY_WAY, indirect=True)
@pytest.mark.parametrize(("source", "destination"), [("a", "b"), ("a", "c"), ("a", "world"), ("node1", "a")])
def test_bulk_transfer_in_full_size_segments(cluster: Cluster, source: str, destination: str) -> None:
    before = [cluster.forwards("node1", kind) for kind in (PEER, NEIGH)]
    traffic.tcp(cluster, source, destination, size=20_000_000)
    if cluster.mode == "ebpf" and source == "a":
        after = [cluster.forwards("node1", kind) for kind in (PEER, NEIGH)]
        packets = sum(now[0] - then[0] for now, then in zip(after, before, strict=True))
        size = sum(now[1] - then[1] for now, then in zip(after, before, strict=True))
        assert size > 20_000_000
        assert size / packets > 3000, "bursts stay whole until they leave"


@pytest.mark.parametrize("cluster", EVERY_WAY, indirect=True)
@pytest.mark.parametrize("destination", ["b", "c", "node2", "world", "node1"])
def test_the_mode_is_what_netfilter_sees(cluster: Cluster, destination: str) -> None:
    before = cluster.forwarded_by_netfilter("node1")
    traffic.tcp(cluster, "a", destination)
    seen = cluster.forwarded_by_netfilter("node1") - before
    if cluster.mode == "ebpf" or destination == "node1":
        assert seen == 0
    else:
        assert seen > 10


@pytest.mark.parametrize(
    ("destination", "visible"), [("b", "a"), ("c", "a"), ("node1", "a"), ("node2", "a"), ("world", "node1")]
)
def test_who_sees_which_address(cluster: Cluster, destination: str, visible: str) -> None:
    for talk in (traffic.tcp, traffic.udp):
        address, port = talk(cluster, "a", destination)
        assert address == ADDRESSES[visible]
        if destination == "world":
            config = cluster.configs["node1"]
            assert config.nat_port_min <= port <= config.nat_port_max


def test_the_path_mtu_to_the_world_is_learned(cluster: Cluster) -> None:
    with traffic.listening(cluster, "world") as server:
        target = (WORLD, server.getsockname()[1])
        with traffic.connected(cluster, "a", server, target) as (client, accepted):
            traffic.transfer(client, accepted, 2_000_000)
            assert client.getsockopt(socket.IPPROTO_IP, 14) == WORLD_MTU  # IP_MTU


def test_a_datagram_beyond_the_path_mtu_is_told_to_the_pod(cluster: Cluster) -> None:
    cluster.run("c", "ip", "route", "flush", "cache")
    with cluster.socket("c", socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        client.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        client.connect((WORLD, 9))
        with pytest.raises(OSError) as caught:
            for _ in range(50):
                client.send(bytes(1450))
                client.settimeout(0.1)
                try:
                    client.recv(1)
                except TimeoutError:
                    continue
        assert caught.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("destination", ["b", "c", "node1", "node2", "world"])
def test_a_closed_port_is_told_to_the_pod(cluster: Cluster, destination: str) -> None:
    with cluster.socket("a", socket.SOCK_DGRAM) as client:
        client.connect((ADDRESSES[destination], 9))
        client.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
    with cluster.socket("a", socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
        client.connect((ADDRESSES[destination], 9))


@pytest.mark.parametrize("destination", ["b", "c", "world"])
def test_a_ttl_that_runs_out_is_told_to_the_pod(cluster: Cluster, destination: str) -> None:
    with (
        cluster.socket("a", socket.SOCK_RAW, socket.IPPROTO_ICMP) as listener,
        cluster.socket("a", socket.SOCK_DGRAM) as client,
    ):
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
        client.sendto(b"x" * 20, (ADDRESSES[destination], 33434))
        message, (router, _) = listener.recvfrom(2048)
        assert (message[20], router) == (11, NODE1.ip)


def test_the_gateway_is_resolved(cluster: Cluster) -> None:
    cluster.run("a", "ip", "neigh", "flush", "dev", "eth0")
    traffic.ping(cluster, "a", POD_C.ip)
    assert f"{GATEWAY_IP} lladdr {HOST_MAC}" in cluster.run("a", "ip", "neigh", "show", "dev", "eth0")
    traffic.ping(cluster, "node1", POD_A.ip)
    assert f"{POD_A.ip} lladdr {POD_A.mac}" in cluster.run(
        "node1", "ip", "neigh", "show", "dev", POD_A.device
    )


def test_the_gateway_is_resolved_over_ipv6_and_nothing_else_leaks(cluster: Cluster) -> None:
    before = cluster.drops("node1")
    cluster.run("a", "ip", "-6", "addr", "replace", "fd00::2/128", "dev", "eth0", "nodad")
    cluster.run("a", "ip", "-6", "route", "replace", "default", "via", "fe80::1", "dev", "eth0")
    with cluster.inside("a"):
        client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with client:
        for _ in range(3):
            client.sendto(b"leak", ("2001:db8::1", 9))
    deadline = time.monotonic() + 5
    while cluster.drops("node1").get(139, 0) < before.get(139, 0) + 3:
        assert time.monotonic() < deadline, "the datagrams did not reach the datapath"
        time.sleep(0.05)
    # A pod's own announcements count as well: the drops may be complete before the gateway has answered.
    while f"fe80::1 lladdr {HOST_MAC}" not in cluster.run("a", "ip", "-6", "neigh", "show", "dev", "eth0"):
        assert time.monotonic() < deadline, "the gateway was not resolved"
        time.sleep(0.05)


@pytest.mark.parametrize("cluster", EVERY_WAY, indirect=True)
def test_a_spoofed_source_is_dropped_and_counted(cluster: Cluster) -> None:
    before = cluster.drops("node1").get(132, 0)
    payload = b"spoofed"
    for source in ("10.1.1.3", "10.1.2.2", NODE2.ip, WORLD):
        header = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0,
            socket.inet_aton(source), socket.inet_aton(POD_C.ip),
        )  # fmt: skip
        with cluster.socket("a", socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(header + struct.pack("!HHHH", 1, 2, 8 + len(payload), 0) + payload, (POD_C.ip, 0))
    assert cluster.drops("node1")[132] == before + 4


@pytest.mark.parametrize("cluster", EVERY_WAY, indirect=True)
def test_nothing_was_dropped_that_should_have_passed(cluster: Cluster) -> None:
    """Runs last: the other tests' ordinary traffic has left no other reasons behind."""
    for node in ("node1", "node2"):
        assert set(cluster.drops(node)) <= {132, 139, 176}
