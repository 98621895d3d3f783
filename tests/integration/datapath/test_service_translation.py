"""Services in packets: real traffic to frontends, by clients whose sockets nobody translates."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.services import ANY, EXTERNAL_IP, EXTERNAL_LOCAL, HAIRPIN, NODE_PORT, Services
from tests.integration.datapath import traffic
from tests.integration.datapath.cluster import ADDRESSES, NODE1, NODE2, NODES, VIP, WORLD, Cluster
from tests.integration.datapath.cluster import NODE_PORT as NODE_PORT_NUMBER
from tests.integration.datapath.conftest import BY_MODE, EVERY_WAY

PORT = 8080
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
EXTERNAL = "203.0.113.50"
DSR = [f"{way}-dsr" for way in BY_MODE]
WITH_DSR = [*BY_MODE, *DSR]
ALL = pytest.mark.parametrize("proxied", [*EVERY_WAY, *DSR], indirect=True)
WAYS = [
    pytest.param("a", "a", (VIP, 80), id="pod-itself"),
    pytest.param("a", "b", (VIP, 80), id="pod-local"),
    pytest.param("a", "c", (VIP, 80), id="pod-remote"),
    pytest.param("a", "node1", (VIP, 80), id="pod-host"),
    pytest.param("world", "a", (NODE1.ip, NODE_PORT_NUMBER), id="world-local"),
    pytest.param("world", "c", (NODE1.ip, NODE_PORT_NUMBER), id="world-remote"),
    pytest.param("world", "node1", (NODE1.ip, NODE_PORT_NUMBER), id="world-host"),
]
"""Client, backend, and the service by which the one reaches the other."""


@pytest.fixture(
    scope="module",
    params=WITH_DSR,
)
def proxied(
    request: pytest.FixtureRequest, objects: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A running cluster that translates services itself, also with direct server return."""
    mode, kind, *rest = request.param.split("-")
    made = Cluster(tmp_path_factory.mktemp("proxied"))
    try:
        made.build()
        for outside in ("10.152.183.0/24", f"{EXTERNAL}/32"):
            made.run("router", "ip", "route", "add", outside, "via", NODE1.ip)
        made.start(objects, mode=mode, attach=kind, services=True, dsr="dsr" in rest)
        made.mode, made.dsr = mode, "dsr" in rest
        yield made
    finally:
        made.close()


@pytest.fixture
def services(proxied: Cluster) -> Iterator[dict[str, Services]]:
    """Services of each node; gone after the test, with the connections that the tables remember."""
    yield {node.name: Services(proxied.datapaths[node.name].map) for node in NODES}
    for node in NODES:
        for name in ("podwire_services4", "podwire_backends4", "podwire_ct4", "podwire_nat4"):
            proxied.datapaths[node.name].map(name).clear()


def expose(
    services: dict[str, Services],
    address: str,
    port: int,
    *backends: str,
    flags: int = 1,
    nodes: tuple[str, ...] = ("node1", "node2"),
) -> None:
    """One service for TCP and UDP on all nodes; clients outside get the same backends."""
    for node in nodes:
        for protocol in (TCP, UDP):
            endpoints = [(ADDRESSES[backend], PORT) for backend in backends]
            services[node].expose(address, port, protocol, endpoints, flags=flags, service=protocol)


@ALL
@pytest.mark.parametrize("backend", ["a", "b", "c", "node1", "node2", "world"])
def test_a_pod_reaches_a_cluster_ip(proxied: Cluster, services: dict[str, Services], backend: str) -> None:
    expose(services, VIP, 80, backend)
    expected = {"a": HAIRPIN, "world": NODE1.ip}.get(backend, ADDRESSES["a"])
    assert traffic.exchange(proxied, "a", backend, PORT, (VIP, 80)) == expected


@ALL
@pytest.mark.parametrize("backend", ["a", "b", "c", "node1", "node2"])
def test_the_world_reaches_a_node_port(proxied: Cluster, services: dict[str, Services], backend: str) -> None:
    """Its address reaches backends of this node; others must answer by this node, or know to whom."""
    expose(services, ANY, NODE_PORT_NUMBER, backend, flags=NODE_PORT)
    expected = NODE1.ip if backend in ("c", "node2") and not proxied.dsr else WORLD
    assert traffic.exchange(proxied, "world", backend, PORT, (NODE1.ip, NODE_PORT_NUMBER)) == expected


@pytest.mark.parametrize("backend", ["a", "c", "node1"])
def test_the_world_reaches_an_external_ip(
    proxied: Cluster, services: dict[str, Services], backend: str
) -> None:
    expose(services, EXTERNAL, 443, backend, flags=EXTERNAL_IP)
    expected = NODE1.ip if backend == "c" and not proxied.dsr else WORLD
    assert traffic.exchange(proxied, "world", backend, PORT, (EXTERNAL, 443)) == expected


@pytest.mark.parametrize("backend", ["a", "b", "c"])
@pytest.mark.parametrize("node", [NODE1, NODE2], ids=["its-own-node", "another-node"])
def test_a_pod_reaches_a_node_port(
    proxied: Cluster, services: dict[str, Services], backend: str, node: object
) -> None:
    expose(services, ANY, NODE_PORT_NUMBER, backend, flags=NODE_PORT)
    target = (node.ip, NODE_PORT_NUMBER)
    assert traffic.exchange(proxied, "a", backend, PORT, target) == (
        HAIRPIN if backend == "a" else ADDRESSES["a"]
    )


def test_another_node_chooses_its_own_backend_for_local_traffic(
    proxied: Cluster, services: dict[str, Services]
) -> None:
    expose(services, ANY, NODE_PORT_NUMBER, "c", flags=NODE_PORT | EXTERNAL_LOCAL)
    assert traffic.exchange(proxied, "a", "c", PORT, (NODE2.ip, NODE_PORT_NUMBER)) == ADDRESSES["a"]


@pytest.mark.parametrize(
    ("client", "target"),
    [
        pytest.param("a", (VIP, 80), id="pod"),
        pytest.param("a", (VIP, 81), id="pod-unknown-port"),
        pytest.param("node1", (VIP, 80), id="host"),
        pytest.param("node1", (VIP, 81), id="host-unknown-port"),
        pytest.param("a", (NODE1.ip, NODE_PORT_NUMBER), id="pod-own-node-port"),
        pytest.param("a", (NODE2.ip, NODE_PORT_NUMBER), id="pod-another-node-port"),
        pytest.param("world", (NODE1.ip, NODE_PORT_NUMBER), id="world-node-port"),
        pytest.param("world", (EXTERNAL, 443), id="world-external-ip"),
    ],
)
def test_a_service_without_backends_refuses_at_once(
    proxied: Cluster, services: dict[str, Services], client: str, target: tuple[str, int]
) -> None:
    expose(services, VIP, 80)
    expose(services, ANY, NODE_PORT_NUMBER, flags=NODE_PORT)
    expose(services, EXTERNAL, 443, flags=EXTERNAL_IP)
    started = time.monotonic()
    with proxied.socket(client, socket.SOCK_STREAM) as stream, pytest.raises(ConnectionRefusedError):
        stream.connect(target)
    with proxied.socket(client, socket.SOCK_DGRAM) as datagram:
        datagram.connect(target)
        datagram.send(b"is anybody there?")
        with pytest.raises(ConnectionRefusedError):
            datagram.recv(1)
    assert time.monotonic() - started < 0.9, "no packet was sent twice"


def test_a_cluster_ip_is_for_the_cluster(proxied: Cluster, services: dict[str, Services]) -> None:
    expose(services, VIP, 80, "a")
    before = proxied.drops("node1").get(174, 0)
    with proxied.socket("world", socket.SOCK_STREAM, timeout=0.3) as client, pytest.raises(TimeoutError):
        client.connect((VIP, 80))
    assert proxied.drops("node1")[174] > before


@pytest.mark.parametrize(
    ("client", "backend", "target"), [*WAYS, pytest.param("a", "world", (VIP, 80), id="pod-world")]
)
def test_errors_about_a_translated_packet_reach_the_client(
    proxied: Cluster, services: dict[str, Services], client: str, backend: str, target: tuple[str, int]
) -> None:
    """Nobody listens at the backend: its port unreachable must quote what the client sent."""
    expose(services, VIP, 80, backend)
    expose(services, ANY, NODE_PORT_NUMBER, backend, flags=NODE_PORT)
    with proxied.socket(client, socket.SOCK_DGRAM) as datagram:
        datagram.connect(target)
        datagram.send(b"nobody listens")
        with pytest.raises(ConnectionRefusedError):
            datagram.recv(1)


@pytest.mark.parametrize("backend", ["b", "c"])
@pytest.mark.parametrize("order", ["direct-first", "service-first"])
def test_one_source_port_serves_direct_and_service_connections_in_turn(
    proxied: Cluster, services: dict[str, Services], backend: str, order: str
) -> None:
    expose(services, VIP, 80, backend)
    direct, by_service = (ADDRESSES[backend], PORT), (VIP, 80)
    targets = [direct, by_service] if order == "direct-first" else [by_service, direct]
    traffic.in_turn(proxied, "a", backend, PORT, targets * 3)


@pytest.mark.parametrize(
    ("client", "backend"), [("a", "b"), ("a", "c"), ("world", "a"), ("world", "c")], ids="-".join
)
def test_one_source_port_reaches_one_backend_by_two_services_at_once(
    proxied: Cluster, services: dict[str, Services], client: str, backend: str
) -> None:
    targets = [(VIP, 80), (VIP, 81)] if client == "a" else [(NODE1.ip, NODE_PORT_NUMBER), (EXTERNAL, 443)]
    for address, port in targets:
        flags = {VIP: 1, EXTERNAL: EXTERNAL_IP}.get(address, NODE_PORT)
        expose(services, ANY if flags == NODE_PORT else address, port, backend, flags=flags)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(traffic.listening(proxied, backend, PORT))
        ends = []
        for target in targets:
            ask = stack.enter_context(proxied.socket(client, socket.SOCK_STREAM))
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                ask.setsockopt(socket.SOL_SOCKET, option, 1)
            ask.bind(("0.0.0.0", 45679))
            ask.connect(target)
            answer, _ = server.accept()
            answer.settimeout(5)
            ends.append((ask, stack.enter_context(answer)))
        for _ in range(2):
            for ask, answer in ends:
                traffic.transfer(ask, answer, 10_000)
                traffic.transfer(answer, ask, 10_000)


@pytest.mark.parametrize(
    ("client", "old", "new", "target"),
    [
        pytest.param("a", "b", "c", (VIP, 80), id="pod"),
        pytest.param("world", "a", "c", (NODE1.ip, NODE_PORT_NUMBER), id="world"),
        pytest.param("world", "c", "a", (NODE1.ip, NODE_PORT_NUMBER), id="world-remote"),
    ],
)
def test_connections_drain_and_new_ones_go_elsewhere(
    proxied: Cluster, services: dict[str, Services], client: str, old: str, new: str, target: tuple[str, int]
) -> None:
    def point_to(backend: str) -> None:
        expose(services, VIP, 80, backend)
        expose(services, ANY, NODE_PORT_NUMBER, backend, flags=NODE_PORT)
        for datapath in proxied.datapaths.values():
            slots = datapath.map("podwire_slots")
            for slot in range(4):
                slots.set(slot, {"revision": slots.get(slot)["revision"] + 1})

    point_to(old)
    with (
        traffic.listening(proxied, old, PORT) as server,
        traffic.connected(proxied, client, server, target) as (ask, answer),
    ):
        traffic.transfer(ask, answer, 10_000)
        point_to(new)
        assert traffic.exchange(proxied, client, new, PORT, target)
        traffic.transfer(ask, answer, 300_000)
        traffic.transfer(answer, ask, 300_000)


def test_connections_cross_switches_of_host_routing(proxied: Cluster, services: dict[str, Services]) -> None:
    """All at once: a switch takes long, and they share nothing but the nodes."""
    other = {"ebpf": "legacy", "legacy": "ebpf"}[proxied.mode]
    with contextlib.ExitStack() as stack:
        servers: dict[str, socket.socket] = {}
        talks = {}
        for number, (client, backend, (address, _)) in enumerate(way.values for way in WAYS):
            if backend not in servers:
                servers[backend] = stack.enter_context(traffic.listening(proxied, backend, PORT))
            expose(services, VIP, 90 + number, backend)
            expose(services, ANY, NODE_PORT_NUMBER + number, backend, flags=NODE_PORT)
            target = (address, (90 if address == VIP else NODE_PORT_NUMBER) + number)
            ends = stack.enter_context(traffic.connected(proxied, client, servers[backend], target))
            talks[client, backend] = stack.enter_context(traffic.Chatter(*ends))
        try:
            for mode in (other, proxied.mode, other):
                proxied.switch(mode)
                before = {way: talk.rounds for way, talk in talks.items()}
                time.sleep(0.3)
                stuck = [way for way, talk in talks.items() if talk.rounds == before[way]]
                assert not stuck, f"nothing moves in mode {mode}: {stuck}"
        finally:
            proxied.switch(proxied.mode)
