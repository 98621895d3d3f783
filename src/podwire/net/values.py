"""Plain values shared by the pure parts and those that talk to the kernel."""

from __future__ import annotations

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
