"""``podwire service`` with the answers that the agent's own code builds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.cli.main import main
from podwire.service import parse, report
from podwire.service.model import Name, NodeContext
from podwire.service.registry import Registry
from tests.unix_api import serving


def registry() -> Registry:
    value = Registry(NodeContext("node1", node_addresses=frozenset({"192.0.2.1"})))
    for name, spec in {
        "web": {
            "type": "NodePort",
            "clusterIP": "10.152.183.5",
            "ports": [{"port": 80, "nodePort": 30080}],
            "externalTrafficPolicy": "Local",
            "externalIPs": ["192.0.2.1"],
            "sessionAffinity": "ClientIP",
        },
        "db": {"clusterIP": "None"},
    }.items():
        value.set_service(parse.service({"metadata": {"namespace": "shop", "name": name}, "spec": spec}))
    endpoints = [{"addresses": [f"10.1.{n}.5"], "nodeName": f"node{n}"} for n in (1, 2)]
    value.set_slice(
        parse.endpoint_slice(
            {
                "metadata": {
                    "namespace": "shop",
                    "name": "web-1",
                    "labels": {"kubernetes.io/service-name": "web"},
                },
                "addressType": "IPv4",
                "ports": [{"port": 8080}],
                "endpoints": endpoints,
            }
        )
    )
    value.flush()
    return value


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    value = registry()
    answers = {
        "/v1/services": (200, {"enabled": True, "synced": True, **report.service_list(value)}),
        "/v1/services/shop/web": (200, report.service_details(value, Name("shop", "web"))),
    }
    with serving(tmp_path / "agent.sock", answers, unknown="no service of that name") as socket:
        yield socket


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_list(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "service", "list"]) == 0
    text = capsys.readouterr().out
    assert any(line[2:6] == ["ClusterIP", "10.152.183.5:80/TCP", "2", "Cluster"] for line in lines(text))
    assert ["NodePort", "*:30080/TCP", "2/1", "Local"] in lines(text)
    assert "headless" in text
    assert "shop/web: external IP 192.0.2.1 is the address of a node" in text


def test_list_of_a_namespace(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "service", "list", "-n", "other", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_get(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "service", "get", "shop/web"]) == 0
    text = capsys.readouterr().out
    assert "by client address, 10800 s" in text
    assert "node1 (this one)" in text
    assert "10.1.2.5:8080/TCP" in text
    assert "(NodeAddress)" in text


def test_get_as_json(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "service", "get", "shop/web", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["backends"]) == 2


def test_an_unknown_service(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "service", "get", "web"]) == 1
    assert "/v1/services/default/web: no service of that name" in capsys.readouterr().err


def test_kube_proxys_services_are_not_listed_as_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"/v1/services": (200, {"enabled": False, "services": []})}
    with serving(tmp_path / "agent.sock", answers) as agent:
        assert main(["--socket", agent, "service", "list"]) == 0
    assert "left to kube-proxy" in capsys.readouterr().out
