"""Probes against real sockets on the loopback, and ICMP as bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import connectivity_probe as probe

HERE = "127.0.0.1"


@contextlib.contextmanager
def bound(kind):
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind((HERE, 0))
        yield server, server.getsockname()[1]


def test_tcp_that_is_answered():
    with bound(socket.SOCK_STREAM) as (server, port):
        server.listen()
        answer = probe.tcp(HERE, port, 2)
    assert answer.observed == probe.ALLOWED
    assert answer.source[0] == HERE
    assert answer.source[1] > 0


def test_tcp_that_is_refused():
    with bound(socket.SOCK_STREAM) as (_, port):
        assert probe.tcp(HERE, port, 2).observed == probe.REFUSED


def test_tcp_into_silence():
    with bound(socket.SOCK_STREAM) as (server, port), contextlib.ExitStack() as opened:
        server.listen(0)
        for _ in range(4):  # a full queue takes no more, and says nothing
            client = opened.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((HERE, port))
        answer = probe.tcp(HERE, port, 0.2)
    assert (answer.observed, answer.detail) == (probe.DENIED, "no answer in 0.2 s")
    assert answer.source[1] > 0, "by which its drops are found"


def test_udp_that_is_answered_though_the_first_datagram_is_lost():
    with bound(socket.SOCK_DGRAM) as (server, port):

        def serve():
            server.recv(100)
            payload, client = server.recvfrom(100)
            server.sendto(payload, client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert probe.udp(HERE, port, b"hello", 1).observed == probe.ALLOWED
        thread.join(2)


def test_udp_that_is_refused_and_udp_into_silence():
    with bound(socket.SOCK_DGRAM) as (_, port):
        assert probe.udp(HERE, port, b"x", 0.2).observed == probe.DENIED
    assert probe.udp(HERE, port, b"x", 1).observed == probe.REFUSED


def packet(kind, identifier, protocol=1):
    header = bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(10)
    return header + struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + b"data"


def error(quoted):
    return packet(probe.DESTINATION_UNREACHABLE, 0)[:28] + quoted


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (packet(probe.ECHO_REPLY, 7), probe.ALLOWED),
        (packet(probe.ECHO_REPLY, 8), ""),
        (packet(probe.ECHO_REQUEST, 7), ""),
        (error(packet(probe.ECHO_REQUEST, 7)), probe.REFUSED),
        # What others on the machine are refused, and what is too short to tell.
        (error(packet(probe.ECHO_REQUEST, 8)), ""),
        (error(packet(probe.ECHO_REQUEST, 7, protocol=17)), ""),
        (error(packet(probe.ECHO_REQUEST, 7)[:27]), ""),
        (error(b""), ""),
        (packet(probe.ECHO_REPLY, 7)[:24], ""),
    ],
)
def test_what_an_icmp_packet_says(data, verdict):
    assert probe.read_icmp(data, 7) == verdict


def test_an_echo_request_has_a_right_checksum():
    request = probe.echo_request(7, 1)
    assert probe.checksum(request) == 0
    assert struct.unpack_from("!BBHHH", request)[3:] == (7, 1)


def test_a_namespace_that_is_gone_is_an_error_and_no_denial(tmp_path):
    missing = str(tmp_path / "cni-1")
    answer = probe.in_namespace(missing, lambda: probe.tcp(HERE, 9, 1))
    assert (answer.observed, answer.detail) == (probe.ERROR, f"{missing}: No such file or directory")


def test_a_bug_in_a_probe_is_no_verdict(recwarn, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    answer = probe.in_namespace("", lambda: 1 / 0)
    assert answer.observed == probe.ERROR
