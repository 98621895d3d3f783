"""Which flows start anew when services change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from podwire.agent import flow_reset
from podwire.agent.flow_reset import FlowReset
from podwire.agent.service_flows import CT_TRANSLATED, CT_TRANSLATED_BACK, Stale, stale_flows
from podwire.agent.service_tables import number
from podwire.service.model import ANY_ADDRESS, Backend, Flags, Frontend, FrontendKey, Protocol

LEFT = Backend("10.1.0.5", 53)
DNS = FrontendKey("10.2.0.10", 53, Protocol.UDP)
NODE_PORT = FrontendKey(ANY_ADDRESS, 30053, Protocol.UDP)


def key(source: str, source_port: int, destination: str, destination_port: int) -> dict[str, Any]:
    return {
        "source_address": number(source),
        "source_port": source_port,
        "destination_address": number(destination),
        "destination_port": destination_port,
        "protocol": 17,
    }


def value(flags: int, service: int = 0, backend: Backend = LEFT) -> dict[str, Any]:
    rewrite = {"destination_address": number(backend.address), "destination_port": backend.port}
    return {"flags": flags, "service": service, "rewrite": rewrite}


CLIENT = key("10.1.0.9", 4000, "10.2.0.10", 53)
ANSWER = key("10.1.0.5", 53, "10.1.0.9", 4000)


@pytest.mark.parametrize(
    ("entry", "stale", "expected"),
    [
        pytest.param((CLIENT, value(CT_TRANSLATED, 7)), Stale({(7, LEFT)}), True, id="to the backend"),
        pytest.param((ANSWER, value(CT_TRANSLATED_BACK, 7)), Stale({(7, LEFT)}), True, id="its answers"),
        pytest.param((CLIENT, value(CT_TRANSLATED, 8)), Stale({(7, LEFT)}), False, id="of another service"),
        pytest.param(
            (CLIENT, value(CT_TRANSLATED, 7, Backend("10.1.0.6", 53))),
            Stale({(7, LEFT)}),
            False,
            id="to another backend",
        ),
        pytest.param((ANSWER, value(0)), Stale({(7, LEFT)}), False, id="of the pod itself"),
        pytest.param((CLIENT, value(0)), Stale(frontends={DNS}), True, id="older than its service"),
        pytest.param(
            (CLIENT, value(CT_TRANSLATED, 7)), Stale(frontends={DNS}), False, id="translated already"
        ),
        pytest.param(
            (key("10.1.0.9", 4000, "192.0.2.1", 30053), value(0)),
            Stale(frontends={NODE_PORT}),
            True,
            id="older than its node port",
        ),
        pytest.param(
            (key("10.1.0.9", 30053, "192.0.2.1", 99), value(0)),
            Stale(frontends={NODE_PORT}),
            False,
            id="other",
        ),
    ],
)
def test_entries_of_the_connection_table(
    entry: tuple[dict[str, Any], dict[str, Any]], stale: Stale, expected: bool
) -> None:
    assert stale.includes(*entry) is expected


def test_only_udp_frontends_that_serve_end_older_flows() -> None:
    serving = Frontend(1, 5, 2, 0, 0, 0, Flags.CLUSTER_IP)
    empty = Frontend(1, 0, 0, 0, 0, 0, Flags.CLUSTER_IP)
    tcp = DNS._replace(protocol=Protocol.TCP)
    assert stale_flows(set(), {DNS: serving, tcp: serving, NODE_PORT: empty}) == Stale(set(), {DNS})
    assert not stale_flows(set(), {tcp: serving})


async def test_what_comes_while_the_table_is_searched_is_searched_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_reset, "SHORTEST_PAUSE", 0.01)
    searched: list[Stale] = []
    done = asyncio.Event()

    async def forget(stale: Stale) -> int:
        searched.append(stale)
        if len(searched) == 2:
            done.set()
        return 1

    reset = FlowReset(forget)
    reset.add(Stale({(1, LEFT)}))
    await asyncio.sleep(0)
    reset.add(Stale({(2, LEFT)}))
    reset.add(Stale({(3, LEFT)}))
    await asyncio.wait_for(done.wait(), 5)
    assert searched == [Stale({(1, LEFT)}), Stale({(2, LEFT), (3, LEFT)})]
    await reset.close()
    assert reset.forgotten == 2


async def test_a_failure_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_reset, "SHORTEST_PAUSE", 0.01)
    calls = 0

    async def forget(stale: Stale) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("no")
        return 1

    reset = FlowReset(forget)
    for _ in range(2):
        reset.add(Stale({(1, LEFT)}))
        await asyncio.sleep(0.1)
    assert calls == 2
    await reset.close()
