"""What module service_info returns, from answers of an HTTP server on a real unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.agent_client import AgentClient, AgentRefusedError
from ansible_collections.podwire.ebpf.plugins.module_utils.services import read_services

from tests.unix_api import serving

PROBLEM = {"reason": "Conflict", "message": "taken"}
WEB = {"namespace": "shop", "name": "web", "problems": [PROBLEM]}
DNS = {"namespace": "kube-system", "name": "kube-dns", "problems": []}
DETAILS = {**WEB, "backends": [{"address": "10.1.0.5"}]}


ANSWERS = {
    "/v1/status": (200, {"services": {"enabled": True, "synced": True}}),
    "/v1/services": (200, {"services": [DNS, WEB]}),
    "/v1/services/shop/web": (200, DETAILS),
    "/v1/services/shop/broken": (503, {"error": "the registry is locked"}),
}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[AgentClient]:
    with serving(tmp_path / "agent.sock", ANSWERS, unknown="no such service") as socket:
        yield AgentClient(socket, timeout=2)


def test_all_services_and_their_problems(client: AgentClient) -> None:
    assert read_services(client, None, None) == {
        "enabled": True,
        "synced": True,
        "services": [DNS, WEB],
        "problems": [{"namespace": "shop", "name": "web", **PROBLEM}],
    }


def test_a_namespace(client: AgentClient) -> None:
    result = read_services(client, "kube-system", None)
    assert result["services"] == [DNS]
    assert result["problems"] == []


def test_one_service_comes_with_its_backends(client: AgentClient) -> None:
    assert read_services(client, "shop", "web")["services"] == [DETAILS]


def test_a_service_that_is_not_there_is_no_failure(client: AgentClient) -> None:
    assert read_services(client, None, "web")["services"] == [], "namespace default"


def test_a_refusal_is_one(client: AgentClient) -> None:
    with pytest.raises(AgentRefusedError, match="locked"):
        read_services(client, "shop", "broken")


def test_kube_proxys_services(tmp_path: Path) -> None:
    answers = {"/v1/status": (200, {}), "/v1/services": (200, {"services": []})}
    with serving(tmp_path / "agent.sock", answers) as socket:
        assert read_services(AgentClient(socket, timeout=2), None, None)["enabled"] is False
