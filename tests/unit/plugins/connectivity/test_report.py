"""What counts as expected, whose drop event explains a row, and how it is shown."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import connectivity
from ansible_collections.podwire.ebpf.plugins.module_utils import connectivity_report as report
from ansible_collections.podwire.ebpf.plugins.module_utils.connectivity_plan import Place, Probe
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError


def row(**values):
    return {
        "name": "",
        "from": "default/xwing",
        "node": "n1",
        "to": "service default/deathstar",
        "address": "10.152.183.9",
        "port": 80,
        "protocol": "TCP",
        "expect": "denied",
        "observed": "denied",
        "detail": "no answer in 3 s",
        "reason": "",
        "source_address": "10.1.0.7",
        "source_port": 40001,
        "began": 1000.0,
        "ended": 1003.0,
        **values,
    }


def event(**values):
    return {
        "time": 1001.0,
        "reason": 133,
        "reason_name": "policy_denied",
        "direction": "ingress",
        "protocol": "TCP",
        "source": "10.1.0.7",
        "source_port": 40001,
        "destination": "10.1.1.2",
        "destination_port": 8080,
        **values,
    }


@pytest.mark.parametrize(
    ("values", "found"),
    [
        pytest.param({}, True, id="the backend's address instead of the service's"),
        pytest.param({"source_port": 40002}, False, id="another connection"),
        pytest.param({"source": "10.1.0.8"}, False, id="another pod"),
        pytest.param({"protocol": "UDP"}, False, id="another protocol"),
        pytest.param({"time": 996.0}, False, id="before"),
        pytest.param({"time": 998.0}, True, id="clocks differ"),
        pytest.param({"time": 1007.0}, False, id="after"),
    ],
)
def test_whose_drop_it_is(values, found):
    assert bool(report.reason_in(row(), [event(**values)])) is found


def test_an_answer_is_explained_by_the_verdict_that_let_it_through():
    judged = {**event(reason=0, reason_name="", rule="Policy/a spec.ingress[0]"), "verdict": "allowed"}
    answered = row(observed="allowed")
    assert report.reason_in(answered, [judged]) == "allowed, at ingress, by Policy/a spec.ingress[0]"
    assert report.reason_in(answered, [event()]) == ""
    assert report.reason_in(row(), [judged]) == ""


def test_a_denial_is_explained_by_its_drop_before_its_verdict():
    judged = {**event(rule="judged"), "verdict": "denied"}
    assert report.reason_in(row(), [event(rule="dropped"), judged]).endswith("by dropped")
    assert report.reason_in(row(), [judged]).endswith("by judged")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, True),
        ({"observed": "allowed"}, True),
        ({"observed": "allowed", "expect": "allowed"}, False),
        ({"observed": "refused", "expect": "refused"}, False),
    ],
)
def test_which_rows_want_a_reason(values, wanted):
    assert report.wants_reason(row(**values)) is wanted


@pytest.mark.parametrize(("destination", "found"), [("10.1.1.2", True), ("10.1.1.3", False)])
def test_icmp_has_no_ports(destination, found):
    ping = row(protocol="ICMP", source_port=0, port=0, address="10.1.1.2")
    seen = event(protocol="ICMP", source_port=0, destination=destination)
    assert bool(report.reason_in(ping, [seen])) is found


def test_a_reason_says_all_that_the_event_knows():
    assert report.describe(event()) == "policy denied (133), at ingress, no rule allows it"
    told = report.describe(
        event(
            reason=181,
            reason_name="policy_deny",
            source_identity=300,
            source_labels=["k8s:class=xwing"],
            destination_identity=301,
            destination_labels=["k8s:org=empire"],
            rule="CiliumNetworkPolicy/default/rule1 spec.ingressDeny[0]",
        )
    )
    assert told == (
        "policy deny (181), at ingress, "
        "from identity 300 [k8s:class=xwing] to identity 301 [k8s:org=empire], "
        "by CiliumNetworkPolicy/default/rule1 spec.ingressDeny[0]"
    )
    assert report.describe(event(reason=132, reason_name="invalid_source_ip", direction="egress")) == (
        "invalid source ip (132), at egress"
    )


def test_table():
    shown = report.table([row(reason="policy denied (133)"), row(expect="allowed", protocol="ICMP", port=0)])
    head, good, bad = shown.splitlines()
    assert head.split() == ["from", "to", "port", "expected", "observed", "why"]
    assert good.startswith(
        "ok    default/xwing  service default/deathstar (10.152.183.9)  80/TCP  denied    denied"
    )
    assert good.endswith("policy denied (133)")
    assert bad.startswith("FAIL")
    assert bad.index("ICMP") == good.index("80/TCP") == head.index("port")


@pytest.mark.parametrize("observed", ["allowed", "refused", "error"])
def test_only_silence_is_a_denial(observed):
    with pytest.raises(
        PodwireError, match=f"1 of 1 connections are not as expected: .*: {observed}, expected denied"
    ):
        connectivity.judge(connectivity.result([row(observed=observed)], []), partial=True)
    connectivity.judge(connectivity.result([row()], []), partial=True)


def test_a_mismatch_has_the_datapaths_reason_beside_it():
    found = connectivity.result([row(expect="allowed", reason="policy denied (133)")], [])
    with pytest.raises(PodwireError, match=r"denied, expected allowed \(policy denied \(133\)\)"):
        connectivity.judge(found, partial=True)


def test_rows_of_other_nodes_are_not_passed_over_in_silence():
    def start(node, command=()):
        source, target = Place("default/xwing", "10.1.0.7", node, "default", "xwing"), Place("x", "10.1.1.2")
        return Probe("", source, target, 80, "TCP", "allowed", command=command)

    by_the_api = start("n2", ("curl",))
    assert connectivity.split([by_the_api], "n1") == ([by_the_api], [])

    here, elsewhere = connectivity.split([start("n1"), start("n2")], "n1")
    assert [item.source.node for item in here] == ["n1"]
    found = connectivity.result([row()], elsewhere)
    assert (found["total"], found["elsewhere"]) == (2, ["default/xwing on n2"])
    with pytest.raises(PodwireError, match="not everything starts on this node: default/xwing on n2"):
        connectivity.judge(found, partial=False)
    connectivity.judge(found, partial=True)
