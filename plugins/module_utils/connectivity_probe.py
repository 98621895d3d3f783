# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Send from a pod without asking its image for anything: from inside its network namespace, on its node.

A thread enters the namespace and opens the socket there. So the packets leave by the pod's own interface,
with its address, past its policy, whether its image has a shell, a client, or nothing but one program.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
ALLOWED, DENIED, REFUSED, ERROR = "allowed", "denied", "refused", "error"
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM)
ECHO_REQUEST, ECHO_REPLY, DESTINATION_UNREACHABLE = 8, 0, 3
DATAGRAMS = 3
"""How often a datagram without answer is sent: one may be lost."""


@dataclass(frozen=True)
class Answer:
    """What came of a try. ``source`` is the sender's own address and port (0 for ICMP)."""

    observed: str
    detail: str = ""
    source: tuple[str, int] = ("", 0)


def in_namespace(path: str, work: Callable[[], Answer]) -> Answer:
    """Do work in a thread of its own that has entered the network namespace; "" stays where we are."""
    answers: list[Answer] = []

    def run() -> None:
        try:
            if path:
                _enter(path)
            answers.append(work())
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            answers.append(Answer(ERROR, f"{place}{error.strerror or error}"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    return answers[0] if answers else Answer(ERROR, "the probe ended without a result")


def _enter(path: str) -> None:
    """Move this thread, and no other, into a network namespace. Raises OSError."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.setns(number, CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter the network namespace: {os.strerror(code)}", path)
    finally:
        os.close(number)


def tcp(address: str, port: int, timeout: float) -> Answer:
    """Connect. Silence means denied, a reset refused. ``timeout`` in seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect((address, port))
        except TimeoutError:
            return Answer(DENIED, f"no answer in {timeout:g} s", _name(connection))
        except OSError as error:
            return _failed(error, _name(connection))
        return Answer(ALLOWED, "", _name(connection))


def udp(address: str, port: int, payload: bytes, timeout: float) -> Answer:
    """Send a datagram and wait for one in return. Silence means denied: the server must answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        try:
            connection.connect((address, port))
            for deadline in _deadlines(timeout):
                connection.send(payload)
                if _readable(connection, deadline):
                    connection.recv(65535)
                    return Answer(ALLOWED, "", _name(connection))
        except OSError as error:
            return _failed(error, _name(connection))
        return Answer(DENIED, f"no answer in {timeout:g} s", _name(connection))


def icmp(address: str, timeout: float) -> Answer:
    """Ask for an echo. Silence means denied, a router's or a firewall's refusal refused."""
    number = threading.get_native_id() & 0xFFFF  # of this thread alone, while it lasts
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as connection:
        try:
            connection.connect((address, 0))
            for sequence, deadline in enumerate(_deadlines(timeout), 1):
                connection.send(echo_request(number, sequence))
                while _readable(connection, deadline):
                    verdict = read_icmp(connection.recv(65535), number)
                    if verdict:
                        return Answer(verdict, "", _name(connection))
        except OSError as error:
            return _failed(error, _name(connection))
        return Answer(DENIED, f"no answer in {timeout:g} s", _name(connection))


def echo_request(number: int, sequence: int) -> bytes:
    """An ICMP echo request. Pure."""
    payload = b"podwire connectivity"
    head = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, number, sequence)
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, checksum(head + payload), number, sequence) + payload


def read_icmp(packet: bytes, number: int) -> str:
    """What an IPv4 packet says about our echo request; "" when it is about something else. Pure."""
    start = (packet[0] & 15) * 4
    if len(packet) < start + 8:
        return ""
    kind, _, _, identifier, _ = struct.unpack_from("!BBHHH", packet, start)
    if kind == ECHO_REPLY and identifier == number:
        return ALLOWED
    if kind == DESTINATION_UNREACHABLE and _echo_identifier(packet[start + 8 :]) == number:
        return REFUSED
    return ""


def _echo_identifier(quoted: bytes) -> int | None:
    """The identifier of the echo request that an error quotes; None when it is about another packet."""
    start = (quoted[0] & 15) * 4 if quoted else 0
    if len(quoted) < max(start, 20) + 8 or quoted[9] != socket.IPPROTO_ICMP or quoted[start] != ECHO_REQUEST:
        return None
    identifier: int = struct.unpack_from("!H", quoted, start + 4)[0]
    return identifier


def checksum(data: bytes) -> int:
    """The internet checksum. Pure."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _deadlines(timeout: float) -> Iterator[float]:
    began = time.monotonic()
    for number in range(1, DATAGRAMS + 1):
        yield began + timeout * number / DATAGRAMS


def _readable(connection: socket.socket, deadline: float) -> bool:
    left = deadline - time.monotonic()
    return bool(select.select([connection], [], [], max(0.0, left))[0])


def _name(connection: socket.socket) -> tuple[str, int]:
    try:
        address, port = connection.getsockname()[:2]
    except OSError:
        return "", 0
    return str(address), int(port) if connection.type != socket.SOCK_RAW else 0


def _failed(error: OSError, source: tuple[str, int]) -> Answer:
    if error.errno == errno.ECONNREFUSED:
        return Answer(REFUSED, "", source)
    if error.errno in _UNREACHABLE:
        return Answer(REFUSED, error.strerror or str(error), source)
    return Answer(ERROR, error.strerror or str(error), source)
