"""What a CiliumNetworkPolicy means as a whole: subjects, directions, objects that are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.policy import parse_cilium, selectors
from podwire.policy.model import Direction, Origin, Policy
from podwire.policy.parse_common import MOST_MESSAGES

from .objects import JSON, ccnp, cnp, only_entry, only_rule, rule_object

IN, OUT = Direction.INGRESS, Direction.EGRESS
ALPHA = "k8s:io.kubernetes.pod.namespace=alpha"


def subject(policy: Policy) -> str:
    return selectors.text(only_rule(policy).subject)


def test_the_star_wars_rule() -> None:
    policy = cnp(
        """
        description: "L3-L4 policy to restrict deathstar access to empire ships only"
        ingress:
        - fromEndpoints: [{matchLabels: {org: empire}}]
          toPorts: [{ports: [{port: "80", protocol: TCP}]}]
        """,
        selector="{matchLabels: {org: empire, class: deathstar}}",
    )
    assert policy.origin == Origin("CiliumNetworkPolicy", "alpha", "p", "u")
    assert (policy.resource_version, policy.generation, policy.warnings) == ("7", 2, ())
    rule = only_rule(policy)
    assert selectors.text(rule.subject) == f"class=deathstar, org=empire, {ALPHA}"
    assert rule.default_deny == {IN}
    [entry] = rule.entries
    assert (entry.direction, entry.deny, entry.place) == (IN, False, "spec.ingress[0]")


# -- sections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("ingress: [{}]", {IN}),
        ("egress: [{}]", {OUT}),
        ("{ingress: [{}], egress: []}", {IN}),
        ("{ingress: [{}], egress: [{}]}", {IN, OUT}),
        ("ingressDeny: [{fromCIDR: [192.0.2.10/32]}]", {IN}),
        ("egressDeny: [{toEntities: [world]}]", {OUT}),
        ("{ingress: [{}], enableDefaultDeny: {ingress: false}}", set()),
        ("{ingress: [{}], egress: [{}], enableDefaultDeny: {ingress: false}}", {OUT}),
        ("{ingress: [{}], enableDefaultDeny: {ingress: true, egress: true}}", {IN}),
        ("{ingress: [{}], enableDefaultDeny: {egress: false}}", {IN}),
        ("{ingress: [{}], enableDefaultDeny: {}}", {IN}),
    ],
)
def test_directions_that_a_rule_closes(text: str, closed: set[Direction]) -> None:
    assert only_rule(cnp(text)).default_deny == closed


@pytest.mark.parametrize(
    "text", ["{}", "ingress: []", "{ingress: [], ingressDeny: [], egress: [], egressDeny: []}"]
)
def test_rule_that_says_nothing_is_refused(text: str) -> None:
    policy = cnp(text)
    assert policy.rules == ()
    assert "says nothing" in policy.errors[0]


def test_empty_entry_allows_nothing() -> None:
    """``[{}]`` closes the direction: neither peers nor ports are given, so nothing is allowed."""
    for entry in ("{}", "{toPorts: []}", "{icmps: []}"):
        assert only_entry(cnp(f"ingress: [{entry}]")).peers == ()


def test_empty_deny_entry_denies_nothing_and_is_told() -> None:
    policy = cnp("egressDeny: [{}]")
    assert only_entry(policy).peers == ()
    assert policy.warnings == ("spec.egressDeny[0]: denies nothing; to deny everything, name the entity all",)


def test_every_section_is_read() -> None:
    policy = cnp(
        """
        ingress: [{fromEntities: [host]}]
        ingressDeny: [{fromEntities: [world]}]
        egress: [{toEntities: [host]}, {toEntities: [all]}]
        egressDeny: [{toEntities: [world]}]
        """
    )
    assert [(entry.place, entry.direction, entry.deny) for entry in only_rule(policy).entries] == [
        ("spec.ingress[0]", IN, False),
        ("spec.ingressDeny[0]", IN, True),
        ("spec.egress[0]", OUT, False),
        ("spec.egress[1]", OUT, False),
        ("spec.egressDeny[0]", OUT, True),
    ]


def test_spec_and_specs_are_both_used() -> None:
    value = rule_object("ingress: [{fromEntities: [host]}]")
    value["specs"] = [
        {"endpointSelector": {}, "egress": [{}]},
        {"endpointSelector": {}, "ingress": [{}], "log": {"value": "seen"}},
    ]
    policy = parse_cilium.network_policy(value)
    assert policy.errors == ()
    assert [rule.entries[0].place for rule in policy.rules] == [
        "spec.ingress[0]",
        "specs[0].egress[0]",
        "specs[1].ingress[0]",
    ]
    assert [rule.log for rule in policy.rules] == ["", "", "seen"]


def test_one_wrong_rule_refuses_the_object() -> None:
    value = rule_object("ingress: [{}]")
    value["specs"] = [{"endpointSelector": {}}]
    policy = parse_cilium.network_policy(value)
    assert policy.rules == ()
    assert policy.errors[0].startswith("specs[0]: says nothing")


# -- subjects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "text", "warned"),
    [
        ("{}", ALPHA, False),
        ("{matchLabels: {app: job}}", f"app=job, {ALPHA}", False),
        ("{matchLabels: {io.kubernetes.pod.namespace: alpha}}", ALPHA, False),
        ("{matchLabels: {app: job, io.kubernetes.pod.namespace: beta}}", f"app=job, {ALPHA}", True),
        ('{matchLabels: {app: job, "k8s:io.kubernetes.pod.namespace": beta}}', f"app=job, {ALPHA}", True),
        (
            "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: In, values: [alpha, beta]}]}",
            ALPHA,
            False,
        ),
        (
            "{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: NotIn, values: [alpha]}]}",
            f"io.kubernetes.pod.namespace not in (alpha), {ALPHA}",
            False,
        ),
    ],
)
def test_subjects_are_of_the_policys_namespace(selector: str, text: str, warned: bool) -> None:
    policy = cnp("ingress: [{}]", selector=selector)
    assert subject(policy) == text
    assert bool(policy.warnings) is warned


def test_clusterwide_policy_selects_everywhere() -> None:
    policy = ccnp("ingress: [{}]", selector="{}")
    assert policy.origin == Origin("CiliumClusterwideNetworkPolicy", "", "p", "u")
    assert subject(policy) == "everything"


@pytest.mark.parametrize("read_one", [cnp, ccnp])
def test_rules_for_nodes_are_refused(read_one: Any) -> None:
    [error] = read_one("{nodeSelector: {}, ingress: [{}]}").errors
    assert error.startswith("spec.nodeSelector: rules for nodes are not supported")


def test_subject_must_be_given() -> None:
    value = rule_object("ingress: [{}]")
    del value["spec"]["endpointSelector"]
    [error] = parse_cilium.network_policy(value).errors
    assert error.startswith("spec.endpointSelector: must be given")


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{ingress: [{}], ingres: []}", "spec.ingres: unknown field"),
        ("{ingress: [{fromendpoints: [{}]}]}", "spec.ingress[0].fromendpoints: unknown field"),
        (
            "ingress: [{fromEndpoints: [{matchlabels: {}}]}]",
            "spec.ingress[0].fromEndpoints[0].matchlabels: unknown",
        ),
        ("ingress: {}", "spec.ingress: must be a list"),
        ("ingress: [x]", "spec.ingress[0]: must be an object"),
        ("ingress: [null]", "spec.ingress[0]: must be an object, not null"),
        ("ingress: [{fromEndpoints: null}]", "spec.ingress[0].fromEndpoints: must be a list, not null"),
        (
            "{ingress: [{}], enableDefaultDeny: {ingress: 1}}",
            "spec.enableDefaultDeny.ingress: must be true or false",
        ),
        ("{ingress: [{}], log: {value: " + "x" * 33 + "}}", "spec.log.value: at most 32 characters, not 33"),
        (
            "{ingress: [{}], description: 1}",
            "spec.description: must be a string, not the number 1; write it in quotes",
        ),
        ("{ingress: [{}], labels: [{key: a, valu: b}]}", "spec.labels[0].valu: unknown field"),
        (
            "ingress: [{fromRequires: [{matchLabels: {a: b}}]}]",
            "spec.ingress[0].fromRequires: not supported; write its labels into the selectors",
        ),
        ("egress: [{toRequires: [{}]}]", "spec.egress[0].toRequires: not supported"),
        ("ingress: [{authentication: {mode: required}}]", "spec.ingress[0].authentication.mode: "),
        ("ingress: [{authentication: {}}]", "spec.ingress[0].authentication.mode: null is not supported"),
        (
            "ingressDeny: [{authentication: {mode: disabled}}]",
            "spec.ingressDeny[0].authentication: unknown field",
        ),
        ("egressDeny: [{toFQDNs: [{matchName: a.example}]}]", "spec.egressDeny[0].toFQDNs: unknown field"),
        ("ingress: [{toEntities: [all]}]", "spec.ingress[0].toEntities: unknown field"),
        (
            "ingressDeny: [{toPorts: [{ports: [], rules: {}}]}]",
            "spec.ingressDeny[0].toPorts[0].rules: unknown field",
        ),
    ],
)
def test_error_names_the_place(text: str, error: str) -> None:
    policy = cnp(text)
    assert policy.rules == ()
    assert policy.errors[0].startswith(error), policy.errors


@pytest.mark.parametrize(
    "text",
    [
        "ingress: [{authentication: {mode: disabled}, fromEntities: [all]}]",
        "{ingress: [{fromEntities: [all], fromRequires: []}]}",
        "{ingress: [{}], labels: [{key: a, value: b, source: k8s}], description: x, log: {}}",
    ],
)
def test_what_changes_nothing_is_accepted(text: str) -> None:
    only_rule(cnp(text))


def test_hint_corrects_the_case() -> None:
    assert "Did you mean fromEndpoints?" in cnp("ingress: [{fromendpoints: []}]").errors[0]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "must be an object"),
        ([], "must be an object"),
        ({}, "metadata: must be an object with a name"),
        ({"metadata": {"name": "p"}, "spec": {}}, "metadata.namespace: must be given"),
        ({"metadata": {"namespace": "a", "uid": 1}}, "metadata.name: must be given"),
        ({"metadata": {"name": "p", "namespace": "a"}}, "spec: spec or specs must be given"),
        ({"metadata": {"name": "p", "namespace": "a"}, "specs": []}, "spec: spec or specs must be given"),
        ({"metadata": {"name": "p", "namespace": "a"}, "spec": None}, "spec: must be an object, not null"),
        ({"metadata": {"name": "p", "namespace": "a"}, "sepc": {}}, "sepc: unknown field"),
    ],
)
def test_object_without_sense(value: Any, error: str) -> None:
    policy = parse_cilium.network_policy(value)
    assert policy.rules == ()
    assert policy.errors[0].startswith(error), policy.errors


def test_errors_are_not_repeated_without_end() -> None:
    policy = cnp("ingress: [" + "{x: 1}," * 1000 + "]")
    assert len(policy.errors) == MOST_MESSAGES + 1
    assert policy.errors[-1] == f"and {1000 - MOST_MESSAGES} more errors"


@given(JSON)
def test_nothing_raises(value: Any) -> None:
    for reader in (parse_cilium.network_policy, parse_cilium.clusterwide_network_policy):
        policy = reader(value)
        assert bool(policy.errors) is not bool(policy.rules)


@given(JSON, st.sampled_from(["ingress", "ingressDeny", "egress", "egressDeny"]))
def test_no_entry_raises(value: Any, section: str) -> None:
    policy = parse_cilium.network_policy(
        {"metadata": {"name": "p", "namespace": "a"}, "spec": {"endpointSelector": {}, section: [value]}}
    )
    assert bool(policy.errors) is not bool(policy.rules)
    json.dumps(policy.errors)


def test_equal_objects_are_equal_policies() -> None:
    text = "ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], toPorts: [{}]}]"
    assert cnp(text) == cnp(text)
    assert hash(only_entry(cnp(text))) == hash(only_entry(cnp(text)))


def test_ten_thousand_rules_are_read() -> None:
    value = rule_object("ingress: []")
    value["spec"]["ingress"] = [{"fromCIDR": [f"192.0.2.{number % 256}"]} for number in range(10_000)]
    assert len(only_rule(parse_cilium.network_policy(value)).entries) == 10_000
