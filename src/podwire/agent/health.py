"""Is this node's network whole? Probes through the real datapath, from the node's health endpoint.

The health endpoint is a network namespace that is attached exactly as a pod is. From there the agent pings
the other nodes and their health endpoints; from the host it pings its own endpoint, as the kubelet reaches
pods."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from podwire.agent.model import Endpoint, NodeInfo
from podwire.net import icmp, netns

Ping = Callable[[str], Awaitable[float | None]]


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate and its answer; ``detail`` names what was asked and what is wrong."""

    name: str
    ok: bool
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Target:
    """An address to ping, from the health endpoint or from the host."""

    name: str
    address: str
    from_host: bool = False


def targets(nodes: tuple[NodeInfo, ...], own_name: str, own_health: str) -> list[Target]:
    """What to ping: the own health endpoint, and every other node that runs an agent (it says so by
    annotation)."""
    found = [Target("pod", own_health, from_host=True)]
    for node in nodes:
        if node.name == own_name or not node.health_address:
            continue
        if node.addresses:
            found.append(Target(f"node:{node.name}", node.addresses[0]))
        found.append(Target(f"pod:{node.name}", node.health_address))
    return found


class Prober:
    """Runs rounds of probes and remembers the last one. Lives in the event loop."""

    def __init__(self) -> None:
        self._from_pod: icmp.Pinger | None = None
        self._from_host: icmp.Pinger | None = None
        self._endpoint: Endpoint | None = None
        self.checks: list[Check] = []
        self.last_round: float | None = None
        """When the last round ended, in seconds since the epoch."""

    @property
    def attached(self) -> bool:
        """Whether there is a health endpoint to ask from."""
        return self._endpoint is not None

    async def attach(self, endpoint: Endpoint) -> None:
        """Use this health endpoint from now on. Raises NetnsError or OSError."""
        if self._endpoint == endpoint:
            return
        self.close()
        self._from_pod = icmp.Pinger(await asyncio.to_thread(_socket_in, endpoint.netns))
        self._from_host = icmp.Pinger(icmp.open_socket())
        self._endpoint = endpoint

    async def round(self, nodes: tuple[NodeInfo, ...], own_name: str) -> list[Check]:
        """Ask every target now, all at once."""
        if self._endpoint is None:
            self.checks = [
                Check("pod", False, "there is no health endpoint (no podCIDR, or it could not be made)")
            ]
            return self.checks
        asked = targets(nodes, own_name, self._endpoint.address)
        self.checks = list(await asyncio.gather(*(self._ask(target) for target in asked)))
        self.last_round = time.time()
        return self.checks

    async def _ask(self, target: Target) -> Check:
        pinger = self._from_host if target.from_host else self._from_pod
        source = "the host" if target.from_host else "the health endpoint"
        took = await pinger.ping(target.address) if pinger else None
        if took is None:
            return Check(target.name, False, f"no answer from {target.address} to pings of {source}")
        return Check(target.name, True, f"{target.address} answered {source} in {took:.2f} ms")

    def close(self) -> None:
        for pinger in (self._from_pod, self._from_host):
            if pinger is not None:
                pinger.close()
        self._from_pod = self._from_host = self._endpoint = None


def _socket_in(path: str) -> Any:
    fd = netns.open_netns(path)
    try:
        return icmp.open_socket(fd)
    finally:
        os.close(fd)
