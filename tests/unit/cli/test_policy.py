"""Policies, identities, verdicts: as people ask for them and as they are told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from podwire.cli import monitor
from podwire.cli.main import main
from podwire.cli.policy import find, generation, parse_peer, parse_port
from podwire.cli.status import policies
from tests.unix_api import serving

WEB: dict[str, Any] = {
    "key": "CiliumNetworkPolicy/alpha/web",
    "kind": "CiliumNetworkPolicy",
    "namespace": "alpha",
    "name": "web",
    "valid": True,
    "errors": [],
    "warnings": ["endpointSelector: another namespace is overridden"],
    "status": "",
    "generation": 3,
    "resource_version": "77",
    "in_force_generation": 3,
    "rules": 1,
    "subjects": ["alpha/web-0"],
}
BROKEN: dict[str, Any] = {
    **WEB,
    "key": "NetworkPolicy/beta/web",
    "kind": "NetworkPolicy",
    "namespace": "beta",
    "valid": False,
    "errors": ["spec.ingress[0].from[0]: unknown field frm"],
    "status": "unknown field frm. Generation 2 stays in force",
    "in_force_generation": 2,
    "subjects": [],
}
DETAILS: dict[str, Any] = {
    **WEB,
    "rules_in_force": [
        {
            "subject": "app=web",
            "default_deny": ["ingress"],
            "log": "",
            "entries": [
                {
                    "place": "spec.ingress[0]",
                    "direction": "ingress",
                    "verdict": "allow",
                    "peers": ["endpoints app=cli"],
                    "ports": ["80/TCP"],
                },
                {
                    "place": "spec.ingressDeny[0]",
                    "direction": "ingress",
                    "verdict": "deny",
                    "peers": None,
                    "ports": None,
                },
            ],
        }
    ],
}
IDENTITY: dict[str, Any] = {
    "identity": 12345,
    "kind": "cluster",
    "labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=alpha"],
    "prefix": None,
    "addresses": ["10.1.1.2", "10.1.2.3", "10.1.2.4", "10.1.2.5"],
}
LISTED: dict[str, Any] = {
    "enabled": True,
    "synced": True,
    "revision": 8,
    "enforcement": "default",
    "audit": False,
    "observed": {},
    "policies": [WEB, BROKEN],
}
VERDICT: dict[str, Any] = {
    "number": 1,
    "time": 1000.0,
    "verdict": "denied",
    "reason": 133,
    "reason_name": "policy",
    "match": "none",
    "direction": "ingress",
    "program": "from_pod",
    "ifindex": 9,
    "suppressed": 0,
    "cpu": 0,
    "bytes": 60,
    "protocol": "TCP",
    "source": "10.1.1.2",
    "source_port": 40000,
    "destination": "10.1.1.3",
    "destination_port": 80,
    "source_identity": 300,
    "source_labels": [
        "k8s:app=cli",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.kubernetes.pod.namespace=alpha",
    ],
    "destination_identity": 1,
    "destination_labels": ["reserved:host"],
    "policy": 2,
    "rule": "",
}
DROP: dict[str, Any] = {
    **VERDICT,
    "time": 999.0,
    "line": 12,
    "ether_type": "0x0800",
    "reason": 181,
    "reason_name": "policy_deny",
    "rule": "CiliumNetworkPolicy/alpha/web spec.ingressDeny[0]",
}
ANSWERS: dict[str, tuple[int, Any]] = {
    "/v1/policies": (200, LISTED),
    "/v1/policies/CiliumNetworkPolicy/alpha/web": (200, DETAILS),
    "/v1/identities": (200, {"identities": [IDENTITY]}),
    "/v1/identities/12345": (200, IDENTITY),
    "/v1/drops?limit=20": (200, {"last": 1, "lost": 0, "events": [DROP]}),
    "/v1/verdicts?limit=20": (200, {"last": 1, "lost": 0, "events": [VERDICT]}),
}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "agent.sock", ANSWERS) as socket:
        yield socket


def test_the_list_says_what_is_wrong_and_what_is_in_force(
    agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", agent, "policy", "get"]) == 0
    text = capsys.readouterr().out
    assert "3 (2 in force)" in text
    assert "unknown field frm. Generation 2 stays in force" in text
    assert "revision 8, enforcement default" in text
    assert main(["--socket", agent, "policy", "list", "-n", "beta", "-o", "json"]) == 0
    assert [item["key"] for item in json.loads(capsys.readouterr().out)["policies"]] == [BROKEN["key"]]


@pytest.mark.parametrize("name", ["cnp/alpha/web", "alpha/web", "CiliumNetworkPolicy/alpha/web"])
def test_a_policy_is_found_by_the_end_of_its_name(
    name: str, agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", agent, "policy", "get", name]) == 0
    text = capsys.readouterr().out
    assert "spec.ingress[0]" in text
    assert "endpoints app=cli" in text
    assert "everybody" in text
    assert "another namespace is overridden" in text


def test_a_name_must_be_of_one_policy() -> None:
    with pytest.raises(click.ClickException, match="not unique"):
        find([WEB, BROKEN], "web")
    with pytest.raises(click.ClickException, match="no policy"):
        find([WEB, BROKEN], "eb")


def test_an_object_that_never_was_valid_has_nothing_in_force() -> None:
    assert generation({**BROKEN, "in_force_generation": None}) == "3 (nothing in force)"


def test_identities_with_labels_and_addresses(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "identity", "list"]) == 0
    assert "and 1 more" in capsys.readouterr().out
    assert main(["--socket", agent, "identity", "get", "12345"]) == 0
    text = capsys.readouterr().out
    assert "k8s:app=web" in text
    assert "10.1.2.5" in text


def test_a_verdict_is_one_line() -> None:
    text = click.unstyle(monitor.line(VERDICT, monitor.VERDICT))
    assert "ingress DENIED none policy (133) TCP" in text
    assert "10.1.1.2:40000 [300 alpha app=cli] -> 10.1.1.3:80 [1 host]; no rule names it" in text
    allowed = {**VERDICT, "verdict": "allowed", "reason": 0, "match": "L3-L4", "rule": "x spec.ingress[0]"}
    assert "ingress ALLOWED L3-L4 TCP" in click.unstyle(monitor.line(allowed, monitor.VERDICT))
    assert "; x spec.ingress[0] (" in monitor.line(allowed, monitor.VERDICT)


def test_a_drop_of_a_policy_names_the_rule() -> None:
    text = monitor.line(DROP, monitor.DROP)
    assert "policy_deny (181) TCP 10.1.1.2:40000 [300 alpha app=cli]" in text
    assert "CiliumNetworkPolicy/alpha/web spec.ingressDeny[0]" in text


def test_several_kinds_are_shown_in_order(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "monitor", "--type", "policy-verdict,drop", "-o", "json"]) == 0
    events = json.loads(capsys.readouterr().out)
    assert [event["type"] for event in events] == ["drop", "policy-verdict"]
    assert main(["--socket", agent, "monitor", "--type", "drop", "--type", "policy-verdict"]) == 0
    assert capsys.readouterr().out.index("policy_deny") < 100


def test_there_are_no_colours_in_a_file(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "monitor", "--type", "policy-verdict"]) == 0
    assert "ingress DENIED none" in capsys.readouterr().out


ENFORCED: dict[str, Any] = {
    "enabled": True,
    "synced": True,
    "source": {"connected": True, "detail": "https://127.0.0.1:16443"},
    "enforcement": "default",
    "audit": False,
    "policies": 3,
    "revision": 9,
    "problems": 0,
}


@pytest.mark.parametrize(
    ("value", "text", "good"),
    [
        ({}, "there is no Kubernetes API", None),
        ({"enabled": True, "synced": False}, "not begun yet", False),
        (ENFORCED, "3 at revision 9", True),
        ({**ENFORCED, "synced": False}, "not known completely yet (https://127.0.0.1:16443)", False),
        ({**ENFORCED, "enforcement": "always", "audit": True}, "enforcement always, audit", True),
        ({**ENFORCED, "problems": 2}, "2 problems (podwire policy list)", False),
    ],
)
def test_the_status_says_how_policies_are_enforced(
    value: dict[str, Any], text: str, good: bool | None
) -> None:
    found = policies(value)
    assert text in found[0]
    assert found[1] is good


def test_an_unknown_kind_is_refused(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "monitor", "--type", "drop,nosuch"]) == 2
    assert "'nosuch' is none of drop, policy-verdict, translate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", (80, "TCP")),
        ("53/udp", (53, "UDP")),
        ("icmp", (8, "ICMP")),
        ("0/icmp", (0, "ICMP")),
        ("9/SCTP", (9, "SCTP")),
    ],
)
def test_ports_as_people_write_them(text: str, expected: tuple[int, str]) -> None:
    assert parse_port(text) == expected


@pytest.mark.parametrize("text", ["", "http", "80/gre", "70000", "tcp", "-1"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_port(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web-0", {"pod": "default/web-0"}),
        ("alpha/web.0", {"pod": "alpha/web.0"}),
        ("10.1.2.3", {"address": "10.1.2.3"}),
        ("identity:300", {"identity": 300}),
        ("reserved:world", {"labels": "reserved:world"}),
        ("app=web,tier=a", {"labels": "app=web,tier=a"}),
    ],
)
def test_peers_as_people_write_them(text: str, expected: dict[str, Any]) -> None:
    assert parse_peer(text) == expected
