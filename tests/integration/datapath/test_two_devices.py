"""A node with a second device: who is reached by it sees, and answers, the node's address there."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from podwire.agent.masquerade import masquerade_addresses
from podwire.net import routes
from podwire.net.netlink import netlink
from tests.bpf.services import ANY, NODE_PORT, Services
from tests.integration.datapath import traffic
from tests.integration.datapath.cluster import (
    BEYOND,
    ENDPOINT_HOST,
    NODE1,
    NODES,
    SECOND_IP,
    UPLINK,
    WORLD,
    Cluster,
    number,
)
from tests.integration.datapath.cluster import (
    NODE_PORT as NODE_PORT_NUMBER,
)
from tests.integration.datapath.conftest import BY_MODE, EVERY_WAY
from tests.integration.datapath.test_service_translation import PORT, expose

OTHER_IP = "198.18.0.77"


@pytest.fixture(scope="module", params=BY_MODE)
def homed(
    request: pytest.FixtureRequest, objects: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A running cluster, with services, whose node1 has a second device."""
    mode, kind = request.param.split("-")
    made = Cluster(tmp_path_factory.mktemp("homed"))
    try:
        made.build()
        made.add_second_device()
        made.start(objects, mode=mode, attach=kind, services=True)
        made.mode = mode
        tell(made)
        yield made
    finally:
        made.close()


def tell(cluster: Cluster) -> dict[int, str]:
    """Look at node1's addresses and routes as its agent would, and let its datapath know."""

    def look() -> dict[int, str]:
        with cluster.inside("node1"), netlink():
            addresses = routes.host_addresses()
            chosen = masquerade_addresses(addresses, routes.default_routes(), NODE1.ip)
            for known in addresses:
                endpoints.set({"address": number(known.address)}, {"flags": ENDPOINT_HOST})
            for ifindex, address in chosen.items():
                masquerade.set({"ifindex": ifindex}, {"address": number(address)})
            return chosen

    endpoints = cluster.datapaths["node1"].map("podwire_endpoints4")
    masquerade = cluster.datapaths["node1"].map("podwire_masquerade4")
    masquerade.clear()
    with ThreadPoolExecutor(1) as fresh:  # the netlink socket belongs to the thread and its namespace
        return fresh.submit(look).result()


def test_the_agent_finds_the_address_of_the_second_device(homed: Cluster) -> None:
    with homed.inside("node1"):
        index = socket.if_nametoindex("eth1")
    assert tell(homed) == {index: SECOND_IP}


@pytest.mark.parametrize("homed", EVERY_WAY, indirect=True)
@pytest.mark.parametrize(
    ("destination", "visible"), [("beyond", SECOND_IP), ("world", NODE1.ip)], ids=["second", "first"]
)
def test_who_is_reached_by_a_device_sees_its_address(homed: Cluster, destination: str, visible: str) -> None:
    config = homed.configs["node1"]
    for talk in (traffic.tcp, traffic.udp):
        address, port = talk(homed, "a", destination)
        assert address == visible
        assert config.nat_port_min <= port <= config.nat_port_max
    traffic.ping(homed, "a", {"beyond": BEYOND, "world": WORLD}[destination])


def test_bursts_and_fragments_pass(homed: Cluster) -> None:
    traffic.tcp(homed, "a", "beyond", size=5_000_000)
    for size in (1473, 9000, 60_000):
        assert traffic.udp(homed, "a", "beyond", size=size)[0] == SECOND_IP
    traffic.ping(homed, "a", BEYOND, size=5000)


def test_a_closed_port_is_told_to_the_pod(homed: Cluster) -> None:
    with homed.socket("a", socket.SOCK_DGRAM) as client:
        client.connect((BEYOND, 9))
        client.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
    with homed.socket("a", socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
        client.connect((BEYOND, 9))


def test_the_hosts_own_traffic_is_its_own(homed: Cluster) -> None:
    for talk in (traffic.tcp, traffic.udp):
        assert talk(homed, "node1", "beyond")[0] == SECOND_IP
    traffic.ping(homed, "node1", BEYOND)
    traffic.ping(homed, "beyond", SECOND_IP)


def test_a_connection_survives_a_switch_of_modes(homed: Cluster) -> None:
    other = "legacy" if homed.mode == "ebpf" else "ebpf"
    with traffic.listening(homed, "beyond") as server:
        target = (BEYOND, server.getsockname()[1])
        with traffic.connected(homed, "a", server, target) as ends, traffic.Chatter(*ends) as chatter:
            for mode in (other, homed.mode):
                homed.switch(mode)
                before, deadline = chatter.rounds, time.monotonic() + 10
                while chatter.rounds < before + 20 and not chatter.failure:
                    assert time.monotonic() < deadline, f"nothing moves in mode {mode}"
                    time.sleep(0.05)


@pytest.fixture
def services(homed: Cluster) -> Iterator[dict[str, Services]]:
    yield {node.name: Services(homed.datapaths[node.name].map) for node in NODES}
    for node in NODES:
        for name in ("podwire_services4", "podwire_backends4", "podwire_ct4", "podwire_nat4"):
            homed.datapaths[node.name].map(name).clear()


@pytest.mark.parametrize(
    ("client", "address", "backend", "visible"),
    [
        pytest.param("beyond", SECOND_IP, "c", NODE1.ip, id="in-by-the-second-device"),
        pytest.param("beyond", SECOND_IP, "a", BEYOND, id="to-a-pod-of-the-node"),
        pytest.param("world", NODE1.ip, "beyond", SECOND_IP, id="out-by-the-second-device"),
    ],
)
def test_node_ports_are_masqueraded_by_device(
    homed: Cluster, services: dict[str, Services], client: str, address: str, backend: str, visible: str
) -> None:
    expose(services, ANY, NODE_PORT_NUMBER, backend, flags=NODE_PORT)
    assert traffic.exchange(homed, client, backend, PORT, (address, NODE_PORT_NUMBER)) == visible


def test_new_connections_follow_a_changed_address(homed: Cluster) -> None:
    """Runs last: the second device has another address afterwards."""
    data = os.urandom(100)
    with (
        homed.socket("beyond", socket.SOCK_DGRAM) as server,
        homed.socket("a", socket.SOCK_DGRAM) as client,
    ):
        server.bind((BEYOND, 0))
        client.connect(server.getsockname())
        for address in (SECOND_IP, OTHER_IP):
            if address == OTHER_IP:
                homed.run("node1", "ip", "addr", "del", f"{SECOND_IP}/24", "dev", "eth1")
                homed.run("node1", "ip", "addr", "add", f"{OTHER_IP}/24", "dev", "eth1")
                homed.run("node1", "ip", "route", "replace", f"{BEYOND}/32", "via", UPLINK)
                tell(homed)
            client.send(data)
            received, peer = server.recvfrom(1000)
            assert (received, peer[0]) == (data, address)
            server.sendto(data, peer)
            assert client.recv(1000) == data
    assert traffic.tcp(homed, "a", "beyond")[0] == OTHER_IP
