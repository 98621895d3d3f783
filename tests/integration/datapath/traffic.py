"""Real traffic between the namespaces of a cluster, with what arrived compared to what was sent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.integration.datapath.cluster import ADDRESSES, Cluster

CHUNK = 1 << 16


@contextlib.contextmanager
def listening(cluster: Cluster, where: str, port: int = 0) -> Iterator[socket.socket]:
    """A TCP listener."""
    with cluster.socket(where, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", port))
        server.listen(64)
        yield server


@contextlib.contextmanager
def connected(
    cluster: Cluster, source: str, server: socket.socket, address: tuple[str, int], sport: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection: both its ends."""
    with cluster.socket(source, socket.SOCK_STREAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("0.0.0.0", sport))
        client.connect(address)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(5)
            yield client, accepted


def transfer(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Send ``size`` bytes and check that exactly they arrive."""
    block = random.Random(size).randbytes(CHUNK)

    def send() -> str:
        digest, left = hashlib.sha256(), size
        while left:
            piece = block[: min(left, CHUNK)]
            sender.sendall(piece)
            digest.update(piece)
            left -= len(piece)
        return digest.hexdigest()

    def receive() -> str:
        digest, left = hashlib.sha256(), size
        while left:
            piece = receiver.recv(min(left, 1 << 20))
            assert piece, f"the connection ended {left} bytes early"
            digest.update(piece)
            left -= len(piece)
        return digest.hexdigest()

    with ThreadPoolExecutor(2) as pool:
        sent, received = pool.submit(send), pool.submit(receive)
        assert sent.result() == received.result()


def pour(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Move ``size`` bytes as fast as they go, without looking at them."""
    block = bytes(1 << 20)

    def send() -> None:
        left = size
        while left:
            left -= sender.send(block[: min(left, len(block))])

    def receive() -> None:
        left = size
        while left:
            count = len(receiver.recv(min(left, len(block))))
            assert count, f"the connection ended {left} bytes early"
            left -= count

    with ThreadPoolExecutor(2) as pool:
        for work in (pool.submit(send), pool.submit(receive)):
            work.result()


def tcp(
    cluster: Cluster, source: str, destination: str, *, size: int = 100_000, address: str = ""
) -> tuple[str, int]:
    """Send both ways over a fresh connection; returns the peer address that the server saw."""
    with listening(cluster, destination) as server:
        target = (address or ADDRESSES[destination], server.getsockname()[1])
        with connected(cluster, source, server, target) as (client, accepted):
            transfer(client, accepted, size)
            transfer(accepted, client, size)
            peer: tuple[str, int] = accepted.getpeername()
            return peer


def udp(cluster: Cluster, source: str, destination: str, *, size: int = 1000) -> tuple[str, int]:
    """Send a datagram and its echo; returns the peer address that the server saw."""
    data = os.urandom(size)
    with (
        cluster.socket(destination, socket.SOCK_DGRAM) as server,
        cluster.socket(source, socket.SOCK_DGRAM) as client,
    ):
        for end in (server, client):
            # Let routers fragment: otherwise the path MTU must be learned by losing the first datagram.
            end.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
        server.bind(("0.0.0.0", 0))
        client.connect((ADDRESSES[destination], server.getsockname()[1]))
        client.send(data)
        received, peer = server.recvfrom(1 << 16)
        assert received == data
        server.sendto(data, peer)
        assert client.recv(1 << 16) == data
        found: tuple[str, int] = peer
        return found


def exchange(
    cluster: Cluster, client: str, backend: str, port: int, target: tuple[str, int], size: int = 300_000
) -> str:
    """TCP and UDP to a backend by way of ``target``; returns the client address that the backend saw."""
    with (
        listening(cluster, backend, port) as server,
        connected(cluster, client, server, target) as (ask, answer),
    ):
        assert ask.getpeername() == target
        transfer(ask, answer, size)
        transfer(answer, ask, size)
        peer: str = answer.getpeername()[0]
    with cluster.socket(backend, socket.SOCK_DGRAM) as sink, cluster.socket(client, socket.SOCK_DGRAM) as ask:
        sink.bind(("0.0.0.0", port))
        for length in (10, 5000):
            ask.sendto(bytes(length), target)
            data, sender = sink.recvfrom(1 << 16)
            assert (len(data), sender[0]) == (length, peer)
            sink.sendto(data, sender)
            assert ask.recvfrom(1 << 16) == (data, target), "the answer comes from whom was asked"
    return peer


def in_turn(
    cluster: Cluster, client: str, backend: str, port: int, targets: Sequence[tuple[str, int]]
) -> None:
    """TCP to a backend by one target after the other, always from the same port."""
    with listening(cluster, backend, port) as server:
        for target in targets:
            with connected(cluster, client, server, target, sport=45678) as (ask, answer):
                transfer(ask, answer, 10_000)
                transfer(answer, ask, 10_000)
                # Reset instead of closing: the port must be free for the next round at once.
                ask.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ping(cluster: Cluster, source: str, address: str, *, size: int = 56, ident: int = 0) -> None:
    """One echo request and its reply."""
    ident = ident or random.randrange(1, 60000)
    body = os.urandom(size)
    header = struct.pack("!BBHHH", 8, 0, 0, ident, 1)
    request = struct.pack("!BBHHH", 8, 0, checksum(header + body), ident, 1) + body
    with cluster.socket(source, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(request, (address, 0))
        while True:
            reply = raw.recv(1 << 16)
            message = reply[(reply[0] & 15) * 4 :]
            if message[0] == 0 and struct.unpack("!H", message[4:6])[0] == ident:
                assert message[8:] == body
                return


class Chatter:
    """A connection on which requests and answers never end, until told to stop; errors are kept."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        self._stop = threading.Event()
        self.rounds = 0
        self.failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._guard, args=(work,)) for work in (self._ask, self._answer)
        ]

    def __enter__(self) -> Chatter:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)
        if self.failure is not None:
            raise AssertionError(f"after {self.rounds} rounds: {self.failure!r}") from self.failure

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.failure = error

    def _ask(self) -> None:
        while not self._stop.is_set():
            question = struct.pack("!Q", self.rounds)
            self._client.sendall(question)
            assert self._read(self._client) == question
            self.rounds += 1
            time.sleep(0.001)  # ten of these share two cores with whatever else is tested
        self._client.shutdown(socket.SHUT_WR)

    def _answer(self) -> None:
        while question := self._read(self._server):
            self._server.sendall(question)

    @staticmethod
    def _read(end: socket.socket) -> bytes:
        data = b""
        while len(data) < 8:
            piece = end.recv(8 - len(data))
            if not piece:
                return b""
            data += piece
        return data
