"""ICMP echo: packets (pure), and a pinger for the event loop whose socket may live in another namespace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time

from podwire.net.netns import entered

ECHO_REQUEST = 8
ECHO_REPLY = 0
_HEADER = struct.Struct("!BBHHH")
_SOL_RAW = 255
_ICMP_FILTER = 1
_PAYLOAD = b"podwire health probe".ljust(32, b".")


def checksum(data: bytes) -> int:
    """The internet checksum of ``data``."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def echo_request(ident: int, sequence: int) -> bytes:
    """An ICMP echo request without IP header."""
    without = _HEADER.pack(ECHO_REQUEST, 0, 0, ident, sequence) + _PAYLOAD
    return _HEADER.pack(ECHO_REQUEST, 0, checksum(without), ident, sequence) + _PAYLOAD


def parse_reply(packet: bytes) -> tuple[int, int] | None:
    """(ident, sequence) of an echo reply as a raw socket delivers it, IP header first; None for anything
    else."""
    if len(packet) < 20:
        return None
    start = (packet[0] & 0x0F) * 4
    if start < 20 or len(packet) < start + _HEADER.size:
        return None
    kind, code, _, ident, sequence = _HEADER.unpack_from(packet, start)
    return (ident, sequence) if (kind, code) == (ECHO_REPLY, 0) else None


def open_socket(netns_fd: int | None = None) -> socket.socket:
    """A non-blocking raw ICMP socket that sees echo replies only. With ``netns_fd`` it belongs to that
    namespace; call it in a worker thread then."""
    with entered(netns_fd) if netns_fd is not None else contextlib.nullcontext():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
    raw.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF))
    return raw


class Pinger:
    """Sends echo requests and matches the replies. Lives in the event loop."""

    def __init__(self, raw: socket.socket) -> None:
        self._socket = raw
        self._ident = int.from_bytes(os.urandom(2), "big")
        self._sequence = 0
        self._waiting: dict[int, asyncio.Future[float]] = {}
        asyncio.get_running_loop().add_reader(raw, self._receive)

    async def ping(self, address: str, *, timeout: float = 1.0, tries: int = 3) -> float | None:
        """Round-trip time in milliseconds of the first reply, or None when every try stayed without one."""
        for _ in range(tries):
            self._sequence = (self._sequence + 1) & 0xFFFF
            sequence = self._sequence
            reply: asyncio.Future[float] = asyncio.get_running_loop().create_future()
            self._waiting[sequence] = reply
            started = time.monotonic()
            try:
                self._socket.sendto(echo_request(self._ident, sequence), (address, 0))
                return (await asyncio.wait_for(reply, timeout) - started) * 1000
            except OSError as error:  # unreachable at once: no route, or no neighbour
                if not isinstance(error, TimeoutError):
                    await asyncio.sleep(timeout)
            except asyncio.TimeoutError:
                pass
            finally:
                self._waiting.pop(sequence, None)
        return None

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while True:
                found = parse_reply(self._socket.recv(2048))
                if found is None or found[0] != self._ident:
                    continue
                reply = self._waiting.get(found[1])
                if reply is not None and not reply.done():
                    reply.set_result(time.monotonic())
