"""Services in sockets: real clients in a control group, real backends in network namespaces."""

from __future__ import annotations

import collections
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.datapath.socket_node import (
    EXTERNAL_IP,
    NODE_IP,
    NODE_PORT_FLAG,
    OTHER_NODE_IP,
    POD_IP,
    SECOND_POD_IP,
    SOURCE_RANGES_FLAG,
    TCP,
    UDP,
    VIP,
    Server,
    SocketNode,
    ask,
    ask_at,
    number,
)

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
NAMES = {"backend0", "backend1", "backend2"}
NODE_PORT = 30080


@pytest.fixture(scope="module")
def machine(objects: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketNode]:
    with SocketNode(tmp_path_factory.mktemp("sockets"), objects) as made:
        for address, port in ((VIP, 80), (NODE_IP, NODE_PORT), (OTHER_NODE_IP, NODE_PORT), (EXTERNAL_IP, 80)):
            made.server("untranslated", "host", address, port)
        yield made


@pytest.fixture
def node(machine: SocketNode) -> SocketNode:
    machine.forget()
    return machine


def answers(
    node: SocketNode, address: tuple[str, int], *, times: int = 30, where: str = "second"
) -> list[str]:
    """Who answers each of several new connections?"""
    names = []
    for _ in range(times):
        with node.client(where=where) as client:
            client.connect(address)
            names.append(ask(client))
    return names


def earlier(when: int, seconds: float) -> int:
    """A moment before ``when``, also before the machine was started: the clock's readings wrap around."""
    return (when - int(seconds * 1e9)) % 2**64


# -- connections -----------------------------------------------------------------------------------------


def test_connections_reach_all_backends_evenly(node):
    node.service(VIP, 80, node.backends)
    seen = collections.Counter(answers(node, (VIP, 80), times=90))
    assert seen.keys() == NAMES
    assert min(seen.values()) > 10


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["tcp", "udp"])
def test_a_connected_socket_is_shown_the_frontend(node, kind):
    node.service(VIP, 80, node.backends[:1], protocol=TCP if kind == STREAM else UDP)
    with node.client(kind) as client:
        client.connect((VIP, 80))
        assert ask(client) == "backend0"
        assert client.getpeername() == (VIP, 80)
        client.send(b"?")
        answer, source = client.recvfrom(64)
        assert answer == f"backend0 {SECOND_POD_IP}".encode(), "the backend sees the client's own address"
        if kind == DATAGRAM:
            assert source == (VIP, 80)


def test_what_is_no_service_is_left_alone(node):
    node.service(VIP, 80, node.backends, protocol=TCP)
    with node.client() as client:
        client.connect(node.backends[1].at)
        assert (ask(client), client.getpeername()) == ("backend1", node.backends[1].at)
    with node.client(DATAGRAM) as client:
        assert ask_at(client, (VIP, 80)) == ("untranslated", (VIP, 80)), "the service is for TCP only"


def test_sockets_outside_of_the_control_group_are_left_alone(node):
    node.service(VIP, 80, node.backends)
    with node.inside("second"), socket.create_connection((VIP, 80), timeout=3) as client:
        assert ask(client) == "untranslated"


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["tcp", "udp"])
def test_a_service_without_backends_is_left_to_the_packet_programs(node, kind):
    node.service(VIP, 80, [], protocol=TCP if kind == STREAM else UDP)
    with node.client(kind) as client:
        client.connect((VIP, 80))
        assert ask(client) == "untranslated"
    if kind == DATAGRAM:
        with node.client(kind) as client:
            assert ask_at(client, (VIP, 80)) == ("untranslated", (VIP, 80))


def test_a_frontend_whose_list_is_gone_is_left_alone(node):
    """What a reader finds between two updates it was too slow for; it must end, not loop."""
    node.service(VIP, 80, node.backends)
    node.datapath.map("podwire_backends4").clear()
    assert set(answers(node, (VIP, 80), times=3)) == {"untranslated"}


def test_removing_a_backend_diverts_new_connections_and_keeps_old_ones(node):
    node.service(VIP, 80, node.backends[:1])
    with node.client() as old:
        old.connect((VIP, 80))
        assert ask(old) == "backend0"
        node.service(VIP, 80, node.backends[1:])
        assert set(answers(node, (VIP, 80))) == {"backend1", "backend2"}
        assert ask(old) == "backend0"


# -- datagrams without a connection ----------------------------------------------------------------------


def test_datagrams_of_one_socket_keep_their_backend(node):
    node.service(VIP, 80, node.backends, protocol=UDP)
    firsts = []
    for _ in range(30):
        with node.client(DATAGRAM) as client:
            seen = {ask_at(client, (VIP, 80)) for _ in range(5)}
            ((name, source),) = seen
            assert source == (VIP, 80)
            firsts.append(name)
    assert set(firsts) == NAMES, "other sockets get other backends"


def test_datagrams_keep_their_backend_across_changes_while_it_is_there(node):
    node.service(VIP, 80, node.backends[:1], protocol=UDP)
    with node.client(DATAGRAM) as client:
        assert ask_at(client, (VIP, 80))[0] == "backend0"
        for _ in range(5):
            node.service(VIP, 80, node.backends, protocol=UDP)
            assert ask_at(client, (VIP, 80))[0] == "backend0"
        node.service(VIP, 80, node.backends[1:], protocol=UDP)
        name, source = ask_at(client, (VIP, 80))
        assert name in {"backend1", "backend2"}
        assert source == (VIP, 80)


def test_datagrams_after_two_idle_minutes_may_go_elsewhere(node):
    node.service(VIP, 80, node.backends[:1], protocol=UDP)
    forward = node.datapath.map("podwire_sock_forward4")
    with node.client(DATAGRAM) as client:
        ask_at(client, (VIP, 80))
        ((key, value),) = forward.items()
        node.service(VIP, 80, node.backends, protocol=UDP)
        assert ask_at(client, (VIP, 80))[0] == "backend0"
        seen = set()
        for _ in range(40):
            value = forward.get(key)
            forward.set(key, {**value, "used": earlier(value["used"], 121)})
            seen.add(ask_at(client, (VIP, 80))[0])
        assert seen == NAMES


def test_one_socket_talks_to_two_frontends_at_once(node):
    node.service(VIP, 80, node.backends[:1], protocol=UDP)
    node.service(EXTERNAL_IP, 80, node.backends[1:2], protocol=UDP, number_=2)
    with node.client(DATAGRAM) as client:
        for _ in range(3):
            assert ask_at(client, (VIP, 80)) == ("backend0", (VIP, 80))
            assert ask_at(client, (EXTERNAL_IP, 80)) == ("backend1", (EXTERNAL_IP, 80))


def test_a_socket_that_turns_to_the_backend_itself_is_shown_the_backend(node):
    node.service(VIP, 80, node.backends[:1], protocol=UDP)
    backend = node.backends[0].at
    with node.client(DATAGRAM) as client:
        assert ask_at(client, (VIP, 80)) == ("backend0", (VIP, 80))
        assert ask_at(client, backend) == ("backend0", backend)
        assert ask_at(client, (VIP, 80)) == ("backend0", (VIP, 80))
        client.connect((VIP, 80))
        assert client.getpeername() == (VIP, 80)
        client.connect(backend)
        assert client.getpeername() == backend


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "mapped"])
def test_a_connected_socket_that_names_the_frontend_reaches_what_it_is_connected_to(node, family):
    """It hears from nobody else."""
    node.service(VIP, 80, node.backends, protocol=UDP)
    frontend = (VIP if family == socket.AF_INET else mapped(VIP), 80)
    with node.client(DATAGRAM, family=family) as client:
        client.connect(frontend)
        connected = ask(client)
        assert {ask_at(client, frontend) for _ in range(20)} == {(connected, frontend)}


# -- node ports and loopback -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["second", "host"])
@pytest.mark.parametrize("address", [NODE_IP, OTHER_NODE_IP])
@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["tcp", "udp"])
def test_a_node_port_is_one_on_every_nodes_address(node, where, address, kind):
    protocol = TCP if kind == STREAM else UDP
    node.service("0.0.0.0", NODE_PORT, node.backends[:1], protocol=protocol, flags=NODE_PORT_FLAG)
    with node.client(kind, where) as client:
        client.connect((address, NODE_PORT))
        assert ask(client) == "backend0"
        assert client.getpeername() == (address, NODE_PORT)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "0.0.0.0"])
def test_a_node_port_is_one_on_the_hosts_loopback_addresses(node, address):
    node.service("0.0.0.0", NODE_PORT, node.backends[:1], flags=NODE_PORT_FLAG)
    with node.client(where="host") as client:
        client.connect((address, NODE_PORT))
        assert ask(client) == "backend0"


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_pods_loopback_is_its_own(node, address):
    node.service("0.0.0.0", NODE_PORT, node.backends[:1], flags=NODE_PORT_FLAG)
    node.service("127.0.0.1", 8080, node.backends[:1], number_=2)
    for port in (NODE_PORT, 8080):
        with node.client() as client, pytest.raises(ConnectionRefusedError):
            client.connect((address, port))


def test_a_host_port_works_on_the_hosts_loopback(node):
    node.service("127.0.0.1", 8080, node.backends[:1])
    assert answers(node, ("127.0.0.1", 8080), times=1, where="host") == ["backend0"]


def test_a_pods_address_has_no_node_ports(node):
    node.service("0.0.0.0", NODE_PORT, node.backends[:1], flags=NODE_PORT_FLAG)
    with node.client() as client, pytest.raises(ConnectionRefusedError):
        client.connect((POD_IP, NODE_PORT))


def test_a_port_outside_of_the_range_is_no_node_port(node):
    node.service("0.0.0.0", 80, node.backends[:1], flags=NODE_PORT_FLAG)
    with node.client() as client, pytest.raises(ConnectionRefusedError):
        client.connect((NODE_IP, 80))


# -- affinity --------------------------------------------------------------------------------------------


def test_a_namespace_keeps_its_backend_while_affinity_lasts(node):
    node.service(VIP, 80, node.backends, affinity_seconds=60)
    assert len(set(answers(node, (VIP, 80)))) == 1
    # Both namespaces draw once; three backends, so a few services are needed to see that they draw apart.
    differ = False
    for service in range(2, 30):
        node.service(EXTERNAL_IP, 80, node.backends, affinity_seconds=60, number_=service)
        first, second = (
            answers(node, (EXTERNAL_IP, 80), times=3, where=where) for where in ("second", "host")
        )
        assert len(set(first)) == len(set(second)) == 1
        differ = differ or first != second
    assert differ, "another namespace is another client"


def test_affinity_ends_with_its_timeout_and_is_prolonged_by_use(node):
    node.service(VIP, 80, node.backends, affinity_seconds=60)
    affinity = node.datapath.map("podwire_affinity4")
    (first,) = set(answers(node, (VIP, 80), times=1))

    def age(seconds: float) -> None:
        ((key, value),) = affinity.items()
        affinity.set(key, {**value, "used": earlier(value["used"], seconds)})

    for _ in range(5):
        age(50)  # four minutes in all, but never a whole one without a connection
        assert answers(node, (VIP, 80), times=1) == [first]
    seen = set()
    for _ in range(40):
        age(61)
        seen.update(answers(node, (VIP, 80), times=1))
    assert seen == NAMES


def test_affinity_does_not_hold_on_to_a_backend_that_is_gone(node):
    node.service(VIP, 80, node.backends[:1], affinity_seconds=60)
    assert answers(node, (VIP, 80), times=1) == ["backend0"]
    node.service(VIP, 80, node.backends[1:], affinity_seconds=60)
    (new,) = set(answers(node, (VIP, 80), times=10))
    assert new in {"backend1", "backend2"}


def test_datagrams_follow_affinity(node):
    node.service(VIP, 80, node.backends, protocol=UDP, affinity_seconds=60)
    seen = set()
    for _ in range(15):
        with node.client(DATAGRAM) as client:
            seen.add(ask_at(client, (VIP, 80))[0])
    assert len(seen) == 1


# -- source ranges ---------------------------------------------------------------------------------------


def allow(node: SocketNode, prefix: str, length: int) -> None:
    key = {"prefix_length": 32 + length, "service": 1, "address": number(prefix)}
    node.datapath.map("podwire_source_ranges4").set(key, 1)


def test_source_ranges_are_checked_for_the_host_and_left_to_packets_for_pods(node):
    node.service(EXTERNAL_IP, 80, node.backends[:1], flags=SOURCE_RANGES_FLAG)
    allow(node, "10.0.0.0", 8)
    assert answers(node, (EXTERNAL_IP, 80), times=1, where="second") == ["untranslated"]
    assert answers(node, (EXTERNAL_IP, 80), times=1, where="host") == ["untranslated"]
    allow(node, "192.0.2.0", 24)
    assert answers(node, (EXTERNAL_IP, 80), times=1, where="host") == ["backend0"]


# -- IPv6 sockets that talk IPv4 -------------------------------------------------------------------------


def mapped(address: str) -> str:
    return f"::ffff:{address}"


@pytest.mark.parametrize("kind", [STREAM, DATAGRAM], ids=["tcp", "udp"])
def test_an_ipv6_socket_connects_to_a_mapped_address(node, kind):
    node.service(VIP, 80, node.backends[:1], protocol=TCP if kind == STREAM else UDP)
    with node.client(kind, family=socket.AF_INET6) as client:
        client.connect((mapped(VIP), 80))
        assert ask(client) == "backend0"
        assert client.getpeername()[:2] == (mapped(VIP), 80)


def test_datagrams_of_an_ipv6_socket_to_a_mapped_address(node):
    node.service(VIP, 80, node.backends, protocol=UDP)
    with node.client(DATAGRAM, family=socket.AF_INET6) as client:
        ((name, source),) = {ask_at(client, (mapped(VIP), 80)) for _ in range(5)}
        assert name in NAMES
        assert source == (mapped(VIP), 80)


def test_ipv6_addresses_that_are_not_mapped_pass(node):
    with node.inside("host"):
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with listening, node.client(where="host", family=socket.AF_INET6) as client:
        client.connect(listening.getsockname()[:2])
        assert client.getpeername()[:2] == listening.getsockname()[:2]


# -- events ----------------------------------------------------------------------------------------------


def test_a_translated_socket_is_reported_once(node):
    """One event for a connection, one for a socket's datagrams to a frontend, however many they are."""
    node.service(VIP, 80, node.backends[:1], number_=7)
    node.service(VIP, 80, node.backends[1:2], protocol=UDP, number_=8)
    with node.events() as events, node.client() as stream, node.client(DATAGRAM) as datagrams:
        stream.connect((VIP, 80))
        stream.connect_ex((VIP, 80))
        for _ in range(3):
            ask_at(datagrams, (VIP, 80))
        reported = events()
    assert [event["service"] for event in reported] == [7, 8]
    connect, sendmsg = reported
    assert (connect["type"], connect["program"], connect["protocol"]) == (7, 5, TCP)
    assert (sendmsg["type"], sendmsg["program"], sendmsg["protocol"]) == (7, 6, UDP)
    for event, backend in zip(reported, node.backends, strict=False):
        assert (event["destination_address"], event["destination_port"]) == (number(VIP), 80)
        assert (event["new_destination_address"], event["new_destination_port"]) == (
            number(backend.at[0]),
            backend.at[1],
        )
        assert event["direction"] == 2


# -- life of the programs --------------------------------------------------------------------------------


def test_connections_during_an_upgrade_are_all_translated(node):
    node.service(VIP, 80, node.backends)
    stop, names = threading.Event(), []

    def connect() -> None:
        while not stop.is_set():
            names.extend(answers(node, (VIP, 80), times=1))

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        for mtu in (1401, 1402, 1403):
            node.config = replace(node.config, mtu=mtu)
            assert [step for step in node.apply().steps if step.startswith("replace connect4")]
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert len(names) > 10
    assert set(names) <= NAMES


def test_translation_goes_on_when_the_process_that_attached_it_is_killed(node):
    node.service(VIP, 80, node.backends)
    pid = os.fork()
    if pid == 0:
        node.config = replace(node.config, mtu=1450)
        node.apply()
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert set(answers(node, (VIP, 80), times=5)) <= NAMES
    node.config = replace(node.config, mtu=1450)
    assert not node.apply().changed


def test_a_client_that_is_its_own_backend_reaches_itself(node):
    own = Server("itself", node.path("second"), SECOND_POD_IP, 8080)
    try:
        node.service(VIP, 80, [own])
        assert answers(node, (VIP, 80), times=2) == ["itself", "itself"]
    finally:
        own.close()
