"""Health-check node ports, asked over real connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from podwire.agent import service_health
from podwire.agent.service_health import HealthPorts
from podwire.service.model import HealthCheck, Name

WEB = Name("default", "web")


@pytest.fixture
async def ports() -> AsyncIterator[HealthPorts]:
    ports = HealthPorts()
    yield ports
    await ports.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def ask(port: int, path: str = "/") -> tuple[int, Any, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.json(), answer.headers


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def until(question: Callable[[], Awaitable[bool]]) -> None:
    async def wait() -> None:
        while not await question():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), 10)


async def test_the_answer_is_kube_proxys(ports: HealthPorts) -> None:
    port = free_port()
    ports.set_addresses(["127.0.0.1"])
    ports.set_checks({port: HealthCheck(WEB, 2)})

    async def is_open() -> bool:
        return not await refused(port)

    await until(is_open)
    status, body, headers = await ask(port, "/healthz")
    assert status == 200
    assert body == {
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "2"
    ports.set_checks({port: HealthCheck(WEB, 0)})
    status, body, _ = await ask(port)
    assert (status, body["localEndpoints"]) == (503, 0)


async def test_a_port_that_is_wanted_no_more_is_closed(ports: HealthPorts) -> None:
    port = free_port()
    ports.set_addresses(["127.0.0.1"])
    ports.set_checks({port: HealthCheck(WEB, 1)})

    async def is_open() -> bool:
        return not await refused(port)

    await until(is_open)
    ports.set_checks({})

    async def is_closed() -> bool:
        return await refused(port)

    await until(is_closed)
    assert not ports.problems()


async def test_a_port_that_another_program_has_is_named_and_tried_again(
    ports: HealthPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_health, "RETRY", 0.05)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ports.set_addresses(["127.0.0.1"])
        ports.set_checks({port: HealthCheck(WEB, 1)})

        async def is_named() -> bool:
            return any(f"port {port} of service default/web" in text for text in ports.problems())

        await until(is_named)

    async def is_well() -> bool:
        return not ports.problems()

    await until(is_well)
    assert (await ask(port))[0] == 200
