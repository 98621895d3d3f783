"""The parts of the policy benchmark that compute."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from benchmarks.policy import __main__ as benchmark
from benchmarks.policy import kernel, latency
from benchmarks.policy.pods import APPS, Pod, pod
from podwire.policy import parse_cilium, parse_kubernetes, selectors
from podwire.policy.labels import pod_labels

PARSERS = {
    "networkpolicies": parse_kubernetes.network_policy,
    "ciliumnetworkpolicies": parse_cilium.network_policy,
}
NODES = ("one", "two", "three")


@pytest.mark.parametrize("number", range(2 * len(latency.FORMS) * APPS))
def test_policies_are_valid_and_select_the_app_that_is_watched(number: int) -> None:
    resource, body = latency.policy(number)
    body["metadata"]["namespace"] = "space"
    parsed = PARSERS[resource](body)
    assert not parsed.errors
    assert not parsed.warnings
    (rule,) = parsed.rules
    chosen = [
        app
        for app in (f"app-{each}" for each in range(APPS))
        if selectors.matches(rule.subject, pod_labels({"app": app}, "space", {}))
    ]
    assert chosen == [latency.selected(number)]


def test_every_policy_says_something_new() -> None:
    said = [str(latency.policy(number)[1]["spec"]) for number in range(latency.POLICIES)]
    assert len(set(said)) == len(said)


def test_pods_of_every_app_are_on_every_node() -> None:
    made = [pod(number, NODES) for number in range(latency.PODS)]
    places = {(item["metadata"]["labels"]["app"], item["spec"]["nodeName"]) for item in made}
    assert len(places) == APPS * len(NODES)
    assert {item["metadata"]["labels"]["app"] for item in made} == {
        latency.selected(number) for number in range(latency.POLICIES)
    }


def said(node: str, version: str) -> dict[str, object]:
    return {"metadata": {"name": node}, "status": {"observed": {"networkpolicies": version}}}


def test_enforced_everywhere_is_when_the_last_node_says_so() -> None:
    reports = latency.Reports(NODES)
    for when, (node, version) in enumerate(
        [("one", "9"), ("two", "10"), ("other", "30"), ("one", "12"), ("three", "11"), ("three", "13")]
    ):
        reports.take(float(when), said(node, version))
    assert reports.everywhere("networkpolicies", 10) == 4.0
    assert reports.everywhere("networkpolicies", 9) == 4.0


def test_a_node_that_does_not_say_so_is_no_node_that_enforces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "PATIENCE", 0.01)
    reports = latency.Reports(NODES)
    for node in NODES[:2]:
        reports.take(1.0, said(node, "10"))
    reports.take(1.0, said("three", "9"))
    with pytest.raises(TimeoutError, match="networkpolicies"):
        reports.everywhere("networkpolicies", 10)


class Maps:
    """Stands for what a node's kernel holds."""

    def __init__(self) -> None:
        self.states = {"10.0.0.1": kernel.State(2, 5), "10.0.0.2": kernel.State(2, 5)}

    def state(self, address: str) -> kernel.State:
        return self.states[address]


def test_a_policy_is_in_force_when_every_pod_has_another_map_and_is_judged_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    maps = Maps()
    pods = [Pod("one", "app-0", str(IPv4Address("10.0.0.0") + index)) for index in (1, 2)]
    watch = latency.Watch({"one": maps}, pods)  # type: ignore[dict-item]
    monkeypatch.setattr(latency, "PATIENCE", 0.01)
    for address, state in (("10.0.0.1", kernel.State(3, 6)), ("10.0.0.2", kernel.State(3, 5))):
        maps.states[address] = state
        with pytest.raises(TimeoutError, match="one"):
            watch.wait()
    maps.states["10.0.0.2"] = kernel.State(3, 6)
    assert watch.wait().keys() == {"one"}


def test_a_target_is_met_only_by_what_was_measured() -> None:
    in_force = {"p50_ms": 40.0, "p99_ms": 501.0}
    packets = {"ratio_to_one_policy": {"many": {"new": 1.05, "established": 1.2}}}
    assert benchmark.verdicts({"latency": {"skipped": "there is no lab"}}) == {}
    assert benchmark.verdicts({"latency": {"in_force": in_force}, "packets": packets}) == {
        "latency": False,
        "packets": False,
    }
