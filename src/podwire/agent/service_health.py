"""Health-check node ports: load balancers ask every node whether it has endpoints of a service with
externalTrafficPolicy Local. Answers, paths and codes are kube-proxy's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from aiohttp import web

from podwire.service.model import HealthCheck

log = logging.getLogger(__name__)

RETRY = 5.0
"""Seconds until an address that could not be bound is tried again: whoever has it may leave."""
Place = tuple[str, int]
"""Address of this node and port."""


class HealthPorts:
    """The open ports. Lives in the event loop."""

    def __init__(self) -> None:
        self._checks: dict[int, HealthCheck] = {}
        self._addresses: frozenset[str] = frozenset()
        self._open: dict[Place, web.AppRunner] = {}
        self._failed: dict[Place, str] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def set_checks(self, checks: Mapping[int, HealthCheck]) -> None:
        """What to answer, by port. Ports that are not named are closed."""
        self._checks = dict(checks)
        self._wake()

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Addresses of this node to listen on."""
        wanted = frozenset(addresses)
        if wanted != self._addresses:
            self._addresses = wanted
            self._wake()

    def problems(self) -> list[str]:
        """Ports that should be open and are not, as sentences."""
        return [self._failed[place] for place in sorted(self._failed)]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for runner in self._open.values():
            await runner.cleanup()
        self._open.clear()

    def _wake(self) -> None:
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="health-check-ports")

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            await self._arrange()
            try:
                await asyncio.wait_for(self._changed.wait(), RETRY if self._failed else None)
            except asyncio.TimeoutError:
                continue

    async def _arrange(self) -> None:
        """Close what is not wanted, open what is missing."""
        wanted = {(address, port) for address in self._addresses for port in self._checks}
        for place in self._open.keys() - wanted:
            await self._open.pop(place).cleanup()
        self._failed = {place: reason for place, reason in self._failed.items() if place in wanted}
        for place in sorted(wanted - self._open.keys()):
            await self._listen(place)

    async def _listen(self, place: Place) -> None:
        address, port = place
        runner = web.AppRunner(self._app(port), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            await runner.cleanup()
            service = self._checks[port].service
            reason = (
                f"health-check node port {port} of service {service} cannot be opened on {address}: "
                f"{error.strerror or error}; another program may have it"
            )
            if self._failed.get(place) != reason:
                log.error("%s", reason)
            self._failed[place] = reason
        else:
            self._open[place] = runner
            self._failed.pop(place, None)

    def _app(self, port: int) -> web.Application:
        async def answer(_request: web.Request) -> web.Response:
            check = self._checks.get(port)
            return answer_for(check) if check else web.Response(status=404)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        return app


def answer_for(check: HealthCheck) -> web.Response:
    """200 when this node has endpoints of the service, else 503."""
    body = {
        "service": {"namespace": check.service.namespace, "name": check.service.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": True,
    }
    headers = {
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints),
    }
    return web.json_response(body, status=200 if check.local_endpoints else 503, headers=headers)
