"""Programs of the probes, compiled and tried as they are."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import imagebuild

CLIENTS, ROUNDS = 12, 20


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Port of a running udp-address."""
    program = tmp_path / "udp-address"
    imagebuild.compile_static("udp-address.c", program)
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        number = int(taken.getsockname()[1])
    with subprocess.Popen([program, str(number)]) as server:
        yield number
        assert server.poll() is None
        server.terminate()


def ask(client: socket.socket, port: int) -> bytes:
    """Ask until the server has started."""
    client.settimeout(0.2)
    for _ in range(50):
        client.sendto(b"ask\n", ("127.0.0.2", port))
        try:
            return client.recvfrom(64)[0]
        except OSError:
            continue
    raise AssertionError("the server does not answer")


def test_udp_address_answers_everybody_who_asks_at_once(port: int) -> None:
    """A server that forks for each datagram loses some of them: the matrix would report lost packets."""
    clients = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.bind(("127.0.0.3", 0))
        assert ask(clients[0], port) == b"127.0.0.3\n"
        for client in clients:
            client.settimeout(10)
            # Connected: an answer from another address than the one that was asked would not arrive.
            client.connect(("127.0.0.2", port))
        for _ in range(ROUNDS):
            for client in clients:
                client.send(b"ask\n")
            assert [client.recv(64) for client in clients] == [b"127.0.0.3\n"] * CLIENTS
    finally:
        for client in clients:
            client.close()


def test_udp_address_says_how_to_call_it(tmp_path: Path) -> None:
    program = tmp_path / "udp-address"
    imagebuild.compile_static("udp-address.c", program)
    shown = subprocess.run([program], capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "usage:" in shown.stderr
