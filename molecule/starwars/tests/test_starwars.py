"""The Star Wars demo as a user plays it: ships land or hang, and the reasons are told.

Scenario default runs these tests as well, by a link, on the lab that it has anyway."""

from __future__ import annotations

import json
import time

import pytest

from tests.e2e.support import eventually

testinfra_hosts = ["ansible://cp1"]

KUBECTL = "/snap/bin/microk8s kubectl"
SITE = "deathstar.default.svc.cluster.local/v1"
TIME_IS_UP = 28
POLICY_DENIED = 133
ROLE = "molecule/starwars/role.yml"


@pytest.fixture(scope="module")
def played(playbook, cluster):
    """The demo played once, and left with its L3/L4 policy."""
    result = playbook("playbooks/starwars.yml", "-e", "podwire_starwars_keep=true")
    yield result
    playbook(ROLE, "-e", "podwire_starwars_part=remove")


@pytest.fixture
def call(host, played):
    """What a user types: the exit status and the answer of a ship's curl."""

    def run(ship: str, method: str, path: str) -> tuple[int, str]:
        done = host.run(f"{KUBECTL} exec {ship} -- curl -s --connect-timeout 3 -X {method} {SITE}/{path}")
        return done.rc, done.stdout

    return run


def test_every_step_is_as_expected(played) -> None:
    assert played.status == 0, played.output
    table = [line for line in played.output.splitlines() if " -- curl -s " in line]
    assert len(table) == 12, played.output
    assert not [line for line in table if "FAIL" in line]


def test_the_empires_ship_lands(call) -> None:
    assert call("tiefighter", "POST", "request-landing") == (0, "Ship landed\n")


def test_the_alliances_ship_hangs_and_the_drop_is_explained(call, agent, lab, host) -> None:
    began = time.time()
    assert call("xwing", "POST", "request-landing") == (TIME_IS_UP, "")
    address = host.check_output(f"{KUBECTL} get pod xwing -o jsonpath={{.status.podIP}}")

    def drops():
        return [
            event
            for node in lab.nodes
            for event in agent(node, "/v1/drops?limit=1000")["events"]
            if event["source"] == address and event["time"] > began - 1 and event["reason"] == POLICY_DENIED
        ]

    found = eventually(drops, "an event tells of the drop", timeout=5)
    assert {(event["protocol"], event["destination_port"]) for event in found} == {("TCP", 80)}
    assert all("k8s:class=xwing" in event["source_labels"] for event in found)
    assert all("k8s:class=deathstar" in event["destination_labels"] for event in found)


def test_endpoints_tell_who_is_isolated(played, lab, agent) -> None:
    seen = {}
    for node in lab.nodes:
        for endpoint in agent(node, "/v1/endpoints")["endpoints"]:
            if (endpoint.get("labels") or None) is None:
                continue
            for ship in ("deathstar", "tiefighter", "xwing"):
                if f"k8s:class={ship}" in endpoint["labels"]:
                    policy = endpoint["policy"]
                    seen.setdefault(ship, set()).add((policy["ingress"], policy["egress"]))
    assert seen == {
        "deathstar": {("Enabled", "Disabled")},
        "tiefighter": {("Disabled", "Disabled")},
        "xwing": {("Disabled", "Disabled")},
    }


def test_the_role_changes_nothing_the_second_time(playbook, played) -> None:
    again = playbook(ROLE)
    assert again.status == 0, again.output
    assert sum(again.changed.values()) == 0, again.output


EXPECTATIONS = [
    {"from": {"pod": "tiefighter"}, "to": {"service": "deathstar"}, "expect": "allowed"},
    {"from": {"pod": "xwing"}, "to": {"service": "deathstar"}, "expect": "denied"},
    {"from": {"pod": "tiefighter"}, "to": {"deployment": "deathstar"}, "port": 80, "expect": "allowed"},
    {"from": {"pod": "xwing"}, "to": {"deployment": "deathstar"}, "port": 80, "expect": "denied"},
    {"from": {"pod": "tiefighter"}, "to": {"deployment": "deathstar"}, "port": 81, "expect": "denied"},
    {"from": {"pod": "tiefighter"}, "to": {"pod": "xwing"}, "port": 81, "expect": "refused"},
    {"from": {"pod": "xwing"}, "to": {"pod": "tiefighter"}, "protocol": "ICMP", "expect": "allowed"},
    {"from": {"pod": "xwing"}, "to": {"deployment": "deathstar"}, "protocol": "ICMP", "expect": "denied"},
    {"from": {"pod": "xwing"}, "to": {"pod": "tiefighter"}, "port": 8081, "protocol": "UDP"},
]
"""The ships' image is the lab's probe, which answers UDP on 8081; two Death Stars make two rows of one."""


def test_a_table_of_expectations_holds(playbook, played) -> None:
    done = playbook("playbooks/policies.yml", "-e", _variables(EXPECTATIONS))
    assert done.status == 0, done.output
    assert sum(done.changed.values()) == 0, done.output


def test_a_mismatch_fails_with_the_datapaths_reason(playbook, played) -> None:
    wrong = [{"from": {"pod": "xwing"}, "to": {"deployment": "deathstar"}, "port": 80, "expect": "allowed"}]
    done = playbook("playbooks/policies.yml", "-e", _variables(wrong))
    assert done.status != 0
    assert "2 of 2 connections are not as expected: default/xwing to default/deathstar" in done.output
    assert f"({POLICY_DENIED})" in done.output, "the reason of the datapath, wherever it dropped"


def _variables(expectations: list) -> str:
    return json.dumps(
        {
            "podwire_connectivity_expectations": expectations,
            "podwire_policies_src": "../roles/starwars/files/l3_l4.yaml",
            "podwire_policies_set": "starwars",
        }
    )
