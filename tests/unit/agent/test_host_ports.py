"""Host ports: what the runtime asks for, and what pods have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from podwire.agent import cni
from podwire.agent.cni import CniError, Code
from podwire.agent.host_ports import by_pod, port_mappings
from podwire.agent.model import PortMapping
from podwire.agent.state import StateStore
from podwire.service.model import Backend, HostPort, Name, Protocol

from .test_cni import body
from .test_state import ENDPOINT


def config(*items: Any) -> dict[str, Any]:
    return {"runtimeConfig": {"portMappings": list(items)}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, ()),
        ({"runtimeConfig": {}}, ()),
        (config(), ()),
        (config({"hostPort": 80, "containerPort": 8080}), (PortMapping("", 80, 8080, "TCP"),)),
        (
            config({"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "192.0.2.1"}),
            (PortMapping("192.0.2.1", 80, 8080, "UDP"),),
        ),
        (
            config({"hostPort": 80, "containerPort": 80, "hostIP": "0.0.0.0"}),
            (PortMapping("", 80, 80, "TCP"),),
        ),
        (config({"hostPort": 80, "containerPort": 80, "hostIP": "::"}), (PortMapping("", 80, 80, "TCP"),)),
        (config({"hostPort": 80, "containerPort": 80, "hostIP": "fd00::1"}), ()),
        (config({"hostPort": 0, "containerPort": 80}), ()),
    ],
)
def test_mappings_are_read(value: dict[str, Any], expected: tuple[PortMapping, ...]) -> None:
    assert port_mappings(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"runtimeConfig": {"portMappings": 3}}, "not a list"),
        (config(3), "not a list"),
        (config({"hostPort": 80}), "containerPort is None"),
        (config({"hostPort": 70000, "containerPort": 80}), "hostPort is 70000"),
        (config({"hostPort": True, "containerPort": 80}), "hostPort is True"),
        (
            config({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}),
            "'icmp' is none of TCP, UDP, SCTP",
        ),
        (config({"hostPort": 80, "containerPort": 80, "hostIP": "x"}), "hostIP 'x' is no address"),
    ],
)
def test_nonsense_is_refused_with_the_specifications_code(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        port_mappings(value)
    with pytest.raises(CniError) as caught:
        cni.parse_request("add", body(**value))
    assert caught.value.code == Code.INVALID_CONFIG
    cni.parse_request("del", body(**value))  # a DEL must not fail for it


def test_endpoints_with_host_ports_come_back_as_they_were(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    endpoint = replace(ENDPOINT, port_mappings=(PortMapping("", 80, 8080, "TCP"),))
    store.save_endpoint(endpoint)
    assert store.load_endpoints() == [endpoint]


def test_a_record_without_host_ports_is_what_earlier_agents_wrote(tmp_path: Path) -> None:
    StateStore(tmp_path).save_endpoint(ENDPOINT)
    assert "port_mappings" not in next((tmp_path / "endpoints").iterdir()).read_text()


def test_of_two_sandboxes_of_a_pod_the_newer_counts() -> None:
    mapping = PortMapping("", 80, 8080, "TCP")
    old = replace(ENDPOINT, port_mappings=(mapping,), created=1.0)
    new = replace(old, container_id="c2", address="10.1.0.3", created=2.0)
    expected = HostPort("", 80, Protocol.TCP, Backend("10.1.0.3", 8080))
    assert by_pod((new, old)) == {Name("ns", "web"): ("1970-01-01T00:00:02Z", (expected,))}
    assert by_pod((ENDPOINT,)) == {}
