"""Real clients and servers, started in a namespace by a test: ``python conversation.py COMMAND ...``.

Servers answer every request with their own name and the client's address as they see it."""

from __future__ import annotations

import socket
import socketserver
import sys
import time

UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM


class _Tcp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(_answer(self.server, self.client_address) if data else b"")


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request[1].sendto(_answer(self.server, self.client_address), self.client_address)


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def _answer(server: socketserver.BaseServer, client: tuple[str, int]) -> bytes:
    return f"{server.name} {client[0]}\n".encode()  # type: ignore[attr-defined]


def serve(name: str, protocol: str, port: str) -> None:
    """Answer until killed; says ``ready`` first."""
    address = ("0.0.0.0", int(port))
    server: socketserver.BaseServer = (
        _TcpServer(address, _Tcp) if protocol == "tcp" else socketserver.UDPServer(address, _Udp)
    )
    server.name = name  # type: ignore[attr-defined]
    print("ready", flush=True)
    server.serve_forever()


def ask(protocol: str, address: str, port: str, count: str = "1") -> None:
    """Ask ``count`` times, each over a connection of its own; print answers, or the error's name."""
    for _ in range(int(count)):
        with socket.socket(socket.AF_INET, UDP if protocol == "udp" else TCP) as client:
            client.settimeout(3)
            try:
                client.connect((address, int(port)))
                client.sendall(b"?")
                print(client.recv(100).decode().strip(), flush=True)
            except OSError as error:
                print(type(error).__name__, flush=True)


def keep(protocol: str, address: str, port: str, pause: str = "0.05") -> None:
    """Ask over one connection for ever; print answers, or the error's name. After an error UDP connects
    again, as programs do that live long, and TCP ends."""
    while True:
        with socket.socket(socket.AF_INET, UDP if protocol == "udp" else TCP) as client:
            client.settimeout(1)
            client.connect((address, int(port)))
            try:
                while True:
                    client.sendall(b"?")
                    print(client.recv(100).decode().strip(), flush=True)
                    time.sleep(float(pause))
            except OSError as error:
                print(type(error).__name__, flush=True)
        if protocol == "tcp":
            return


if __name__ == "__main__":
    {"serve": serve, "ask": ask, "keep": keep}[sys.argv[1]](*sys.argv[2:])
