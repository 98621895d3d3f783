# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""The health gate: ask the agent until every check holds, or time is up. The clock is passed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.agent_client import (
    AgentClient,
    AgentUnavailableError,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

HTTP_OK = 200
HTTP_UNAVAILABLE = 503


@dataclass(frozen=True)
class Health:
    """One answer of the gate. ``reachable`` is false when no agent answered; then ``error`` says why."""

    healthy: bool
    checks: list[dict[str, Any]] = field(default_factory=list)
    reachable: bool = True
    error: str = ""

    def failing(self) -> list[dict[str, Any]]:
        return [check for check in self.checks if not check.get("ok")]

    def complaints(self) -> list[str]:
        """One line per reason why the gate is shut."""
        if not self.reachable:
            return [self.error]
        return [
            f"{check.get('name', '?')}: {check.get('detail') or 'no detail given'}"
            for check in self.failing()
        ]


def read_health(client: AgentClient, *, probe: bool) -> Health:
    """Ask once. With ``probe`` the agent sends packets through the datapath before it answers."""
    resource = f"/v1/health?probe={int(probe)}"
    try:
        status, answer = client.get(resource, accept=(HTTP_OK, HTTP_UNAVAILABLE))
    except AgentUnavailableError as error:
        return Health(healthy=False, reachable=False, error=str(error.result()["msg"]))
    checks = answer.get("checks", []) if isinstance(answer, dict) else []
    healthy = status == HTTP_OK and all(check.get("ok") for check in checks)
    return Health(healthy=healthy, checks=checks)


def wait_healthy(
    ask: Callable[[], Health],
    *,
    timeout: float,
    interval: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> tuple[Health, int, float]:
    """Ask until healthy; return the last answer, how often was asked, and the seconds it took.

    The gate is asked at least once, even with a timeout of 0.
    """
    start = clock()
    asked = 0
    while True:
        health = ask()
        asked += 1
        elapsed = clock() - start
        if health.healthy or elapsed + interval > timeout:
            return health, asked, elapsed
        sleep(interval)


def require(health: Health, *, timeout: float) -> None:
    """Raise with every failing check named, when the gate is shut."""
    if health.healthy:
        return
    complaints = health.complaints() or ["the agent reports not healthy and names no failing check"]
    raise PodwireError(
        f"the node is not healthy after {timeout:g} s: " + "; ".join(complaints),
        "Look at: journalctl -u podwire-agent -n 100; podwire status; podwire drops.",
        {"checks": health.checks, "failing": complaints},
    )
