"""The agent's client against a real HTTP server on a real unix socket, and the health gate built on it."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import health
from ansible_collections.podwire.ebpf.plugins.module_utils.agent_client import (
    AgentClient,
    AgentRefusedError,
    AgentUnavailableError,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

Answer = tuple[int, str]


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers with the next of ``answers`` (the last one again and again) and notes what was asked."""

    def __init__(self, path: Path, answers: list[Answer]) -> None:
        self.answers = answers
        self.requests: list[tuple[str, str, Any]] = []
        super().__init__(str(path), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, json.loads(body) if body else None))
        status, text = self.server.answers[0]
        if len(self.server.answers) > 1:
            self.server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_PUT = do_GET

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def start(*answers: Answer) -> Server:
        server = Server(tmp_path / "agent.sock", list(answers))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def client(tmp_path: Path) -> AgentClient:
    return AgentClient(str(tmp_path / "agent.sock"), timeout=2)


def test_get_returns_status_and_decoded_answer(serve: Any, client: AgentClient) -> None:
    server = serve((200, '{"node": "cp1"}'))
    assert client.get("/v1/status") == (200, {"node": "cp1"})
    assert server.requests == [("GET", "/v1/status", None)]


def test_put_sends_json(serve: Any, client: AgentClient) -> None:
    server = serve((200, '{"changed": true}'))
    assert client.put("/v1/host-routing", {"mode": "legacy"})[1] == {"changed": True}
    assert server.requests == [("PUT", "/v1/host-routing", {"mode": "legacy"})]


def test_missing_socket_names_the_way_out(client: AgentClient) -> None:
    with pytest.raises(AgentUnavailableError) as caught:
        client.get("/v1/status")
    message = caught.value.result()["msg"]
    assert client.path in message
    assert "role podwire.ebpf.agent" in message


def test_socket_without_listener_is_told_from_a_missing_one(serve: Any, client: AgentClient) -> None:
    server = serve((200, "{}"))
    server.shutdown()
    server.server_close()
    with pytest.raises(AgentUnavailableError, match="has no listener"):
        client.get("/v1/status")


def test_refusal_carries_reason_and_answer(serve: Any, client: AgentClient) -> None:
    serve((409, '{"error": "a datapath change is under way"}'))
    with pytest.raises(AgentRefusedError, match="a datapath change is under way") as caught:
        client.put("/v1/host-routing", {"mode": "ebpf"})
    assert caught.value.status == 409
    assert caught.value.result()["agent_answer"] == {"error": "a datapath change is under way"}


def test_answer_that_is_not_json_is_an_error_that_shows_it(serve: Any, client: AgentClient) -> None:
    serve((502, "<html>"))
    with pytest.raises(AgentRefusedError, match="HTTP 502 and no JSON: '<html>'"):
        client.get("/v1/status")


class Clock:
    """Virtual time: sleeping is what makes it pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait(client: AgentClient, timeout: float) -> tuple[health.Health, int, float]:
    clock = Clock()
    return health.wait_healthy(
        lambda: health.read_health(client, probe=True),
        timeout=timeout,
        interval=1,
        clock=clock,
        sleep=clock.sleep,
    )


BAD = (
    503,
    '{"checks": [{"name": "agent", "ok": true}, {"name": "node w1", "ok": false, "detail": "no answer"}]}',
)
GOOD = (200, '{"checks": [{"name": "agent", "ok": true, "detail": "up"}]}')


def test_gate_opens_as_soon_as_all_checks_hold(serve: Any, client: AgentClient) -> None:
    server = serve(BAD, BAD, GOOD)
    answer, asked, elapsed = wait(client, timeout=60)
    assert (answer.healthy, asked, elapsed) == (True, 3, 2)
    assert server.requests[0][1] == "/v1/health?probe=1"


def test_gate_gives_up_in_time_and_names_only_what_fails(serve: Any, client: AgentClient) -> None:
    serve(BAD)
    answer, asked, _ = wait(client, timeout=3)
    assert asked == 4
    with pytest.raises(PodwireError) as caught:
        health.require(answer, timeout=3)
    assert caught.value.details["failing"] == ["node w1: no answer"]
    assert "node w1: no answer" in str(caught.value)


def test_status_200_with_a_failing_check_keeps_the_gate_shut(serve: Any, client: AgentClient) -> None:
    serve((200, BAD[1]))
    assert not wait(client, timeout=0)[0].healthy


def test_absent_agent_is_not_healthy_and_says_why(client: AgentClient) -> None:
    answer, asked, _ = wait(client, timeout=0)
    assert (answer.reachable, answer.healthy, asked) == (False, False, 1)
    assert "does not exist" in answer.complaints()[0]
