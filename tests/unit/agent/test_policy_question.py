"""Questions about connections: who is meant, and what is answered."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from podwire.agent.identity_view import LocalEndpoint, RemoteEndpoint, World
from podwire.agent.policy_answer import answer, rulebook
from podwire.agent.policy_controller import Assigned
from podwire.agent.policy_engine import NodeEngine
from podwire.agent.policy_question import Asked, Question, Resolver, TraceError, parse_question
from podwire.agent.policy_tables import CLOSED
from podwire.policy import parse_cilium
from podwire.policy.model import Enforcement

NAMESPACE = "k8s:io.kubernetes.pod.namespace"
WEB, CLI = {"k8s:app": "web", NAMESPACE: "alpha"}, {"k8s:app": "cli", NAMESPACE: "alpha"}
LOCAL = LocalEndpoint("c-eth0", "alpha", "web", "10.1.0.2", 300, WEB, frozenset({("http", 6, 80)}))
REMOTE = RemoteEndpoint("node2", "alpha", "cli", "10.1.1.2", 301, frozenset())
NET = IPv4Network("192.0.2.0/24")
WORLD = World(
    identities={300: WEB, 301: CLI},
    local={"c-eth0": LOCAL},
    remote={"10.1.1.2": REMOTE},
    nodes={"10.0.0.1": 1, "10.0.0.2": 6},
    complete=True,
)
RESOLVER = Resolver(WORLD, {NET: 0x01000001})


def test_a_question_is_read() -> None:
    body = {"src": {"pod": "a/b"}, "dst": {"address": "10.0.0.1"}, "port": 80, "protocol": "udp"}
    assert parse_question(body) == Question(Asked(pod="a/b"), Asked(address="10.0.0.1"), 80, 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src": {}}, "src must have exactly one of pod, labels, address, identity"),
        ({"src": {"pod": "a/b", "address": "10.0.0.1"}}, "exactly one"),
        ({"dst": {"pod": "b"}}, "dst: pod must be NAMESPACE/POD"),
        ({"dst": {"address": "10.0.0.256"}}, "no IPv4 address"),
        ({"dst": {"identity": "7"}}, "identity must be a number"),
        ({"dst": {"labels": "=x"}}, "a label has the form"),
        ({"port": "80"}, "port must be a whole number"),
        ({"port": 65536}, "port must be a whole number"),
        ({"protocol": "GRE"}, "protocol must be one of ICMP, TCP, UDP, SCTP"),
        ({"dport": 80}, "unknown keys: dport"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    body = {"src": {"pod": "a/b"}, "dst": {"pod": "a/c"}, "port": 80, **changes}
    with pytest.raises(TraceError, match=message):
        parse_question(body)


@pytest.mark.parametrize(
    ("asked", "identity", "endpoint"),
    [
        (Asked(pod="alpha/web"), 300, "c-eth0"),
        (Asked(pod="alpha/cli"), 301, ""),
        (Asked(address="10.1.0.2"), 300, "c-eth0"),
        (Asked(address="10.1.1.2"), 301, ""),
        (Asked(address="10.0.0.1"), 1, ""),
        (Asked(address="10.0.0.2"), 6, ""),
        (Asked(address="192.0.2.7"), 0x01000001, ""),
        (Asked(address="198.51.100.7"), 2, ""),
        (Asked(identity=301), 301, ""),
        (Asked(labels={"k8s:app": "web"}), 300, "c-eth0"),
        (Asked(labels={"reserved:remote-node": ""}), 6, ""),
    ],
)
def test_who_is_meant(asked: Asked, identity: int, endpoint: str) -> None:
    party = RESOLVER.party(asked)
    assert (party.identity, party.endpoint) == (identity, endpoint)
    assert party.labels


@pytest.mark.parametrize(
    "asked", [Asked(pod="alpha/none"), Asked(identity=999), Asked(labels={"k8s:app": "none"})]
)
def test_nobody_is_said(asked: Asked) -> None:
    with pytest.raises(TraceError):
        RESOLVER.party(asked)


def test_an_answer_has_the_policies_verdict_and_what_is_in_force() -> None:
    policy = parse_cilium.network_policy(
        {
            "metadata": {"name": "web", "namespace": "alpha"},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": "web"}},
                "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "cli"}}]}],
            },
        }
    )
    policies = {policy.origin.key: policy}
    book = rulebook(policies, Enforcement.DEFAULT, ())
    engine = NodeEngine()
    engine.set_world(WORLD, {NET: 0x01000001})
    before = engine.compile(WORLD.local)["c-eth0"]
    engine.set_policies(policies)
    compiled = engine.compile(WORLD.local)["c-eth0"]
    source, destination = RESOLVER.party(Asked(pod="alpha/cli")), RESOLVER.party(Asked(pod="alpha/web"))
    question = Question(Asked(), Asked(), 80, 6)
    allowed = answer(question, source, destination, book, {"c-eth0": Assigned(300, 7, compiled, 2)}.get)
    assert (allowed["verdict"], allowed["source_identity"]) == ("allowed", 301)
    (item,) = allowed["in_force"]
    assert (item["verdict"], item["policy"], item["rule"]) == (
        "allowed",
        7,
        "CiliumNetworkPolicy/alpha/web spec.ingress[0]",
    )
    assert "in force here, ingress of alpha/web: allowed" in allowed["text"]
    world = RESOLVER.party(Asked(address="192.0.2.7"))
    denied = answer(question, world, destination, book, {"c-eth0": Assigned(300, 0, before, 1)}.get)
    assert (denied["verdict"], denied["reason"]) == ("denied", 133)
    assert denied["in_force"][0]["verdict"] == "allowed"  # the change has not arrived
    closed = Assigned(300, CLOSED, compiled, 2, "no memory")
    assert answer(question, source, destination, book, {"c-eth0": closed}.get)["in_force"][0]["problem"]
    unknown = answer(question, source, destination, book, {}.get)["in_force"][0]
    assert (unknown["verdict"], unknown["policy"]) == ("denied", None)


def test_addresses_without_an_identity_of_their_own_are_the_world() -> None:
    party = RESOLVER.party(Asked(address="198.51.100.7"))
    assert party.address == IPv4Address("198.51.100.7")
    assert party.labels == {"reserved:world": ""}
