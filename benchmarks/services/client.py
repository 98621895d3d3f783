"""What runs inside pods: ``python client.py COMMAND ...``. The standard library only: it starts quickly."""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time


def serve(*ports: str) -> None:
    """Listen on every port and answer each connection with the port's number; says ``ready`` first."""
    with selectors.DefaultSelector() as selector:
        for port in ports:
            listener = socket.create_server(("0.0.0.0", int(port)), backlog=1024)  # noqa: S104 - a pod's own
            selector.register(listener, selectors.EVENT_READ, port.encode())
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                with key.fileobj.accept()[0] as connection:
                    connection.sendall(key.data)


def ask(address: str, port: str, timeout: float) -> str:
    """Which port the server behind a service answers from; empty when nobody does."""
    try:
        with socket.create_connection((address, int(port)), timeout=timeout) as connection:
            return connection.recv(16).decode()
    except OSError:
        return ""


def watch(address: str, port: str, wanted: str, seconds: str) -> None:
    """Ask over and over until the answer is ``wanted``; print the monotonic time of the first such one."""
    print("ready", flush=True)
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        if ask(address, port, 0.2) == wanted:
            print(time.monotonic(), flush=True)
            return
        time.sleep(0.001)
    print("never", flush=True)


def connect(port: str) -> None:
    """For every line ``ADDRESS COUNT`` on standard input connect so often; print the median microseconds of
    connect().

    On one core: the whole handshake runs there, and moving about would cost more than what is measured."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print("ready", flush=True)
    for line in sys.stdin:
        address, count = line.split()
        try:
            times = [_connect((address, int(port))) for _ in range(int(count))]
        except OSError as error:
            print(error, flush=True)
            return
        print(sorted(times)[len(times) // 2] / 1000, flush=True)


def _connect(address: tuple[str, int]) -> int:
    """Nanoseconds of one connect()."""
    with socket.socket() as connection:
        connection.settimeout(5)
        started = time.perf_counter_ns()
        connection.connect(address)
        took = time.perf_counter_ns() - started
        connection.recv(16)
    return took


if __name__ == "__main__":
    {"serve": serve, "watch": watch, "connect": connect}[sys.argv[1]](*sys.argv[2:])
