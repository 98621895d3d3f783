"""Datagrams one after the other, and somebody who counts them: ``python flood.py COMMAND ...``.

Every datagram has a number, so that one that was lost is known as well as one that should not have come."""

from __future__ import annotations

import signal
import socket
import sys
import time

RECEIVE_BUFFER = 4 << 20


def count(port: str) -> None:
    """Count distinct datagrams until terminated; print how many came, and the missing numbers below the
    highest."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        server.bind(("0.0.0.0", int(port)))
        stop = False

        def end(*_: object) -> None:
            nonlocal stop
            stop = True

        signal.signal(signal.SIGTERM, end)
        server.settimeout(0.2)
        print("ready", flush=True)
        seen: set[int] = set()
        while True:
            try:
                seen.add(int(server.recv(20)))
            except TimeoutError:
                if stop:
                    break
        missing = sorted(set(range(max(seen, default=-1) + 1)) - seen)
        print(len(seen), *missing[:20], flush=True)


def send(address: str, port: str, pause: str, new_every: str) -> None:
    """Send until terminated, ``pause`` seconds apart, from another port after every ``new_every`` datagrams;
    then print how many were sent."""
    stop = False

    def end(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    number = 0
    while not stop:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((address, int(port)))
            for _ in range(int(new_every)):
                try:
                    client.send(str(number).encode())
                except ConnectionRefusedError:
                    client.send(str(number).encode())  # the error was of an earlier one
                number += 1
                time.sleep(float(pause))
                if stop:
                    break
    print(number, flush=True)


if __name__ == "__main__":
    {"count": count, "send": send}[sys.argv[1]](*sys.argv[2:])
