"""What a NetworkPolicy of Kubernetes means."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given

from podwire.policy import parse_kubernetes, selectors
from podwire.policy.model import Block, Direction, Endpoints, NamedPort, Origin, Peer, Port, PortRange

from .objects import JSON, knp, only_entry, only_rule

IN, OUT = Direction.INGRESS, Direction.EGRESS
TCP, UDP, SCTP = 6, 17, 132
POD = "k8s:io.kubernetes.pod.namespace"
ALPHA = f"{POD}=alpha"
OF = "k8s:io.cilium.k8s.namespace.labels."


def peers(text: str) -> list[str]:
    found = only_entry(knp(f"ingress: [{{from: {text}}}]")).peers
    assert found is not None
    return [selectors.text(peer.selector) for peer in found if isinstance(peer, Endpoints)]


def test_head_and_subject() -> None:
    policy = parse_kubernetes.network_policy(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "namespace": "alpha",
                "name": "p",
                "uid": "u",
                "resourceVersion": "7",
                "generation": 2,
            },
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
            "status": {},
        }
    )
    assert policy.origin == Origin("NetworkPolicy", "alpha", "p", "u")
    assert (policy.resource_version, policy.generation) == ("7", 2)
    rule = only_rule(policy)
    assert (selectors.text(rule.subject), rule.entries, rule.default_deny) == (ALPHA, (), {IN})


def test_labels_are_those_of_pods() -> None:
    assert selectors.text(only_rule(knp("{}")).subject) == f"k8s:app=web, {ALPHA}"


# -- directions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "closed", "entries"),
    [
        ("{}", {IN}, 0),
        ("policyTypes: []", {IN}, 0),
        ("ingress: []", {IN}, 0),
        ("ingress: [{}]", {IN}, 1),
        ("egress: []", {IN}, 0),
        ("egress: [{}]", {IN, OUT}, 1),
        ("policyTypes: [Ingress]", {IN}, 0),
        ("policyTypes: [Egress]", {OUT}, 0),
        ("policyTypes: [Ingress, Egress]", {IN, OUT}, 0),
        ("{policyTypes: [Egress], ingress: [{}]}", {OUT}, 0),
        ("{policyTypes: [Ingress], egress: [{}]}", {IN}, 0),
        ("{policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}", {IN, OUT}, 2),
    ],
)
def test_directions(text: str, closed: set[Direction], entries: int) -> None:
    rule = only_rule(knp(text))
    assert rule.default_deny == closed
    assert len(rule.entries) == entries


@pytest.mark.parametrize("entry", ["{}", "{from: [], ports: []}"])
def test_entry_without_peers_and_ports_allows_everything(entry: str) -> None:
    """The opposite of Cilium's ``[{}]``."""
    found = only_entry(knp(f"ingress: [{entry}]"))
    assert (found.peers, found.ports, found.deny, found.place) == (None, None, False, "spec.ingress[0]")


# -- peers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[{podSelector: {}}]", [ALPHA]),
        ("[{podSelector: {matchLabels: {pod: b}}}]", [f"k8s:pod=b, {ALPHA}"]),
        (
            "[{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}}]",
            [f"k8s:pod in (b, c), {ALPHA}"],
        ),
        ("[{namespaceSelector: {}}]", [POD]),
        ("[{namespaceSelector: {matchLabels: {ns: y}}}]", [f"{OF}ns=y, {POD}"]),
        (
            "[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}]",
            [f"{OF}kubernetes.io/metadata.name=y, {POD}"],
        ),
        (
            "[{podSelector: {matchLabels: {pod: b}}, namespaceSelector: "
            "{matchExpressions: [{key: ns, operator: NotIn, values: [x]}]}}]",
            [f"k8s:pod=b, {OF}ns not in (x), {POD}"],
        ),
        (
            "[{namespaceSelector: {matchLabels: {ns: y}}}, {podSelector: {matchLabels: {pod: b}}}]",
            [f"{OF}ns=y, {POD}", f"k8s:pod=b, {ALPHA}"],
        ),
        ("[{podSelector: {}, namespaceSelector: {}}]", [POD]),
    ],
)
def test_selected_peers(text: str, found: list[str]) -> None:
    assert peers(text) == found


@pytest.mark.parametrize(
    ("block", "peer"),
    [
        ("{cidr: 10.0.0.0/8}", Block(IPv4Network("10.0.0.0/8"))),
        (
            "{cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}",
            Block(IPv4Network("10.0.0.0/8"), (IPv4Network("10.1.0.0/16"), IPv4Network("10.2.0.0/16"))),
        ),
        ("{cidr: 10.1.2.3/32}", Block(IPv4Network("10.1.2.3/32"))),
    ],
)
def test_block(block: str, peer: Peer) -> None:
    assert only_entry(knp(f"egress: [{{to: [{{ipBlock: {block}}}]}}]")).peers == (peer,)


def test_block_of_ipv6_matches_nothing_and_is_told() -> None:
    policy = knp("{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: '2001:db8::/32'}}]}]}")
    assert only_entry(policy).peers == ()
    assert "no IPv6" in policy.warnings[0]


# -- ports ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[{port: 80}]", (PortRange(TCP, 80, 80),)),
        ("[{port: 80, protocol: UDP}]", (PortRange(UDP, 80, 80),)),
        ("[{port: 80, protocol: SCTP}]", (PortRange(SCTP, 80, 80),)),
        ("[{port: 80, endPort: 90}]", (PortRange(TCP, 80, 90),)),
        ("[{protocol: UDP}]", (PortRange(UDP, 0, 65535),)),
        ("[{}]", (PortRange(TCP, 0, 65535),)),
        ("[{port: serve-81-tcp, protocol: TCP}]", (NamedPort(TCP, "serve-81-tcp"),)),
        ("[{port: 80}, {port: 80}, {port: 81}]", (PortRange(TCP, 80, 80), PortRange(TCP, 81, 81))),
    ],
)
def test_ports(text: str, found: tuple[Port, ...]) -> None:
    assert only_entry(knp(f"ingress: [{{ports: {text}}}]")).ports == found


# -- what is not understood ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        "{form: []}",
        "{from: [{}]}",
        "{from: [{podSelector: {}, more: {}}]}",
        "{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}",
        "{from: [{ipBlock: {}}]}",
        "{from: [{ipBlock: {cidr: 10.0.0.0}}]}",
        "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}",
        "{from: [{podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}]}",
        "{from: [{podSelector: {matchLabels: {'k8s:app': x}}}]}",
        "{ports: [{port: 0}]}",
        "{ports: [{port: 65536}]}",
        "{ports: [{port: '80'}]}",
        "{ports: [{port: 80, endPort: 79}]}",
        "{ports: [{port: http, endPort: 90}]}",
        "{ports: [{endPort: 90}]}",
        "{ports: [{port: 80, protocol: ICMP}]}",
        "{ports: [{port: null}]}",
        "{from: null}",
        "[]",
    ],
)
def test_entry_of_a_newer_api_is_closed_and_told(entry: str) -> None:
    """Its neighbours count, and so does the isolation."""
    policy = knp(f"ingress: [{{ports: [{{port: 80}}]}}, {entry}]")
    rule = only_rule(policy)
    assert rule.default_deny == {IN}
    good, bad = rule.entries
    assert good.peers is None
    assert (bad.peers, bad.place) == ((), "spec.ingress[1]")
    assert policy.warnings[0].startswith("spec.ingress[1]")
    assert policy.warnings[0].endswith("spec.ingress[1] allows nothing because of that.")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("policyTypes: [ingress]", "spec.policyTypes[0]: must be Ingress or Egress"),
        ("podSelector: {matchLabel: {}}", "spec.podSelector.matchLabel: unknown field"),
        ("podSelector: null", "spec.podSelector: must be an object"),
        ("subject: {}", "spec.subject: unknown field"),
        ("ingress: x", "spec.ingress: must be a list"),
    ],
)
def test_policy_whose_subject_is_unclear_is_refused(text: str, error: str) -> None:
    policy = knp(text)
    assert policy.rules == ()
    assert policy.errors[0].startswith(error), policy.errors


@pytest.mark.parametrize(
    "value", [None, [], {}, {"metadata": {"name": "p", "namespace": "a"}}, {"metadata": 1}]
)
def test_object_without_sense(value: Any) -> None:
    policy = parse_kubernetes.network_policy(value)
    assert policy.rules == ()
    assert policy.errors


@given(JSON)
def test_nothing_raises(value: Any) -> None:
    parse_kubernetes.network_policy(value)


@given(JSON)
def test_no_spec_raises(value: Any) -> None:
    policy = parse_kubernetes.network_policy({"metadata": {"name": "p", "namespace": "a"}, "spec": value})
    assert bool(policy.errors) is not bool(policy.rules)


@given(JSON)
def test_an_entry_never_opens_what_it_does_not_say(value: Any) -> None:
    """Whatever stands in an entry, there is an entry for it, and it is closed unless it is understood."""
    policy = parse_kubernetes.network_policy(
        {"metadata": {"name": "p", "namespace": "a"}, "spec": {"podSelector": {}, "ingress": [value]}}
    )
    [entry] = policy.rules[0].entries
    understood = isinstance(value, dict) and set(value) <= {"from", "ports"}
    assert understood or entry.peers == ()
