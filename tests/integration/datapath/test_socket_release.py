"""UDP sockets that are connected to a backend that is gone are ended, so that their owners connect again."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.net import netns, sockets
from podwire.net.sockets import Destroyed, UdpSocket, destroy_udp
from tests.integration.datapath.socket_node import EXTERNAL_IP, POD_IP, UDP, VIP, SocketNode, ask, number

DATAGRAM = socket.SOCK_DGRAM


@pytest.fixture(scope="module")
def machine(objects: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketNode]:
    with SocketNode(tmp_path_factory.mktemp("release"), objects) as made:
        yield made


@pytest.fixture
def node(machine: SocketNode) -> SocketNode:
    machine.forget()
    return machine


@pytest.fixture
def second(node: SocketNode) -> Iterator[int]:
    """Descriptor of the namespace that the clients are in."""
    descriptor = netns.open_netns(node.path("second"))
    with netns.closing(descriptor):
        yield descriptor


def error_of(client: socket.socket) -> int:
    """What the socket's owner hears; 0 when it is as it was."""
    client.settimeout(0.2)
    try:
        client.recv(1)
    except TimeoutError:
        return 0
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "mapped"])
def test_a_socket_connected_to_a_dead_backend_is_ended_and_connects_again(node, second, family):
    node.service(VIP, 80, node.backends[:1], protocol=UDP)
    frontend = (VIP if family == socket.AF_INET else f"::ffff:{VIP}", 80)
    with node.client(DATAGRAM, family=family) as client:
        client.connect(frontend)
        assert ask(client) == "backend0"
        node.service(VIP, 80, node.backends[1:2], protocol=UDP)
        assert ask(client) == "backend0", "a connected socket does not notice by itself"

        assert destroy_udp([node.backends[0].at], netns_fd=second) == Destroyed(1)
        assert error_of(client) == errno.ECONNABORTED
        client.settimeout(3)
        client.connect(frontend)
        assert ask(client) == "backend1"


def test_other_sockets_are_left_alone(node, second):
    with (
        node.client(DATAGRAM) as other_port,
        node.client(DATAGRAM) as unconnected,
        node.client(DATAGRAM, "host") as elsewhere,
        node.client() as stream,
    ):
        other_port.connect(node.backends[1].at)
        unconnected.bind(("0.0.0.0", 0))
        elsewhere.connect(node.backends[0].at)
        stream.connect(node.backends[0].at)
        assert destroy_udp([node.backends[0].at, (POD_IP, 9)], netns_fd=second) == Destroyed(0)
        assert [error_of(client) for client in (other_port, unconnected, elsewhere, stream)] == [0] * 4


def test_only_sockets_that_came_through_the_service_are_selected(node, second):
    """The cookie is the one that the datapath remembers frontends by."""
    node.service(VIP, 80, node.backends[:1], protocol=UDP, number_=5)
    node.service(EXTERNAL_IP, 80, node.backends[:1], protocol=UDP, number_=6)
    reverse = node.datapath.map("podwire_sock_reverse4")

    def through_service(found: UdpSocket) -> bool:
        address, port = found.remote
        key = {"cookie": found.cookie, "address": number(address), "port": port, "protocol": UDP}
        frontend = reverse.get(key)
        return frontend is not None and frontend["service"] == 5

    with (
        node.client(DATAGRAM) as direct,
        node.client(DATAGRAM) as translated,
        node.client(DATAGRAM) as of_another_service,
    ):
        direct.connect(node.backends[0].at)
        translated.connect((VIP, 80))
        of_another_service.connect((EXTERNAL_IP, 80))
        done = destroy_udp([node.backends[0].at], netns_fd=second, select=through_service)
        assert done == Destroyed(1)
        assert error_of(translated) == errno.ECONNABORTED
        assert (error_of(direct), error_of(of_another_service)) == (0, 0)


def test_many_sockets_of_many_backends_go_at_once(node, second):
    clients = [node.client(DATAGRAM) for _ in range(120)]
    try:
        for number_, client in enumerate(clients):
            client.connect(node.backends[number_ % 3].at)
        assert destroy_udp([backend.at for backend in node.backends[:2]], netns_fd=second) == Destroyed(80)
        assert destroy_udp([backend.at for backend in node.backends[:2]], netns_fd=second) == Destroyed(0)
        errors = [error_of(client) for client in clients[:6]]
        assert errors == [errno.ECONNABORTED, errno.ECONNABORTED, 0] * 2
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("number_", "reason"),
    [
        (errno.EOPNOTSUPP, "CONFIG_INET_DIAG_DESTROY"),
        (errno.ENOENT, "udp_diag"),
        (errno.EPERM, "CAP_NET_ADMIN"),
    ],
)
def test_a_kernel_that_cannot_is_a_result_that_says_why(node, second, monkeypatch, number_, reason):
    def refuse(kernel: socket.socket, kind: int, flags: int, payload: bytes) -> Iterator[bytes]:
        raise OSError(number_, "refused")

    monkeypatch.setattr(sockets, "_ask", refuse)
    done = destroy_udp([node.backends[0].at], netns_fd=second)
    assert done.sockets == 0
    assert reason in done.reason


def test_a_refusal_of_the_kernel_is_understood(node, second):
    """A real one: a socket type that no kernel lists."""
    with (
        sockets._connection(second) as kernel,
        pytest.raises(OSError, match="No such file or directory") as caught,
    ):
        list(sockets._ask(kernel, 20, 0x301, sockets._REQUEST_HEAD.pack(2, 255, 0, 0, 2) + bytes(48)))
    assert caught.value.errno == errno.ENOENT
