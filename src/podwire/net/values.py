"""Plain values shared by the pure parts and those that talk to the kernel."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NetnsId:
    """Identity of a network namespace: a path may be used again for another namespace, this pair tells them
    apart."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Route4:
    """A route of the main table that belongs to the agent; its destination is the key it is stored under."""

    ifindex: int
    gateway: str | None = None
    """Next hop; None = the destination is on the link."""
    source: str | None = None
    """Address that the host itself speaks from."""


@dataclass(frozen=True, slots=True)
class Address4:
    """An IPv4 address of a device of this host, in the kernel's order."""

    ifindex: int
    address: str
    prefix_length: int = 32
    secondary: bool = False
    """Another address of the same network came first: the kernel prefers that."""
    universe: bool = True
    """Valid beyond the device's own link (scope global)."""

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"{self.address}/{self.prefix_length}", strict=False)


@dataclass(frozen=True, slots=True)
class DefaultRoute4:
    """A default route of the main table."""

    ifindex: int
    gateway: str | None = None
    source: str | None = None
    """Address that the route tells the host to speak from."""
    metric: int = 0
