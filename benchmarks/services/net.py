"""Sockets of other network namespaces."""

from __future__ import annotations

import os
import socket

from podwire.net import netns


def socket_in(name: str, address: tuple[str, int]) -> socket.socket:
    """A TCP connection made from inside a named network namespace; it stays there."""
    fd = netns.open_netns(f"/run/netns/{name}")
    with netns.closing(fd), netns.entered(fd):
        connection = socket.create_connection(address, timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def resident_mib(pid: int) -> float:
    """Resident memory of a process now."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:  # noqa: PTH123 - read in one go, often
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
