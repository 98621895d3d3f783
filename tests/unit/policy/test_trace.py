"""What people are told about a connection."""

from __future__ import annotations

import json
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.policy.model import Enforcement, Match, Rule
from podwire.policy.trace import End, Rulebook, trace

from . import strategies as some
from .cases import CLI, CLUSTER, FROM_CLI, ccnp, cnp, knp, ports
from .cluster import view
from .reference import Direction, Packet, Party, judge


def end(name: str, party: Party) -> End:
    return End(name, party.labels, party.address, party.named_ports)


def ask(source: str, target: str, *policies, port: int = 80, protocol: int = 6):  # type: ignore[no-untyped-def]
    rules = [rule for policy in policies for rule in policy.rules]
    book = Rulebook(rules, services=[view(service) for service in CLUSTER.services])
    ends = [end(name, CLUSTER.parties[name]) for name in (source, target)]
    return trace(*ends, protocol, port, book)


@settings(max_examples=150)
@given(
    st.lists(some.rules(), max_size=4),
    st.sampled_from(Enforcement),
    st.sampled_from(sorted(some.CLUSTER.parties)),
    st.sampled_from(sorted(some.CLUSTER.parties)),
    st.sampled_from(some.PROBES),
)
def test_a_trace_says_what_the_rules_mean(
    rules: list[Rule], mode: Enforcement, source: str, target: str, probe: tuple[int, int]
) -> None:
    parties = some.CLUSTER.parties
    services = some.CLUSTER.services
    book = Rulebook(rules, mode, [view(service) for service in services])
    answer = trace(end(source, parties[source]), end(target, parties[target]), *probe, book)
    expected = []
    if source != target:
        for name, peer, direction in (
            (source, target, Direction.EGRESS),
            (target, source, Direction.INGRESS),
        ):
            if name in (*some.SUBJECTS, "health"):
                packet = Packet(direction, parties[name], parties[peer], *probe)
                expected.append(judge(packet, rules, mode, services))
    assert [one.decision.verdict for one in answer.judgements] == expected
    for one in answer.judgements:
        assert bool(one.denying) == (one.decision.verdict == 181)
        if one.enforced and one.decision.verdict == 0 and not one.allowing:
            assert one.decision.reason == "reserved/allow-localhost"
    json.dumps(answer.as_dict())
    assert answer.text().splitlines()[-1] in ("verdict: allowed", "verdict: denied")


def test_all_rules_that_allow_are_named() -> None:
    answer = ask("cli", "web", cnp(f"[{{ingress: [{{{FROM_CLI}}}]}}]"), knp("{ingress: [{}]}"))
    assert answer.verdict == 0
    assert answer.text().splitlines() == [
        "cli -> web, TCP 80",
        "egress of cli: allowed: nothing closes this direction",
        "ingress of web: allowed (L3-Only) by CiliumNetworkPolicy/alpha/test specs[0].ingress[0], "
        "NetworkPolicy/alpha/test spec.ingress[0]",
        "verdict: allowed",
    ]


def test_who_closes_is_named() -> None:
    answer = ask("job", "web", cnp(f"[{{ingress: [{{{FROM_CLI}}}]}}]"), ccnp("[{egress: [{}]}]"))
    assert answer.verdict == 133
    assert answer.judgements[1].decision.match is Match.NONE
    assert answer.text().splitlines()[2:] == [
        "ingress of web: denied: drop reason 133, CiliumNetworkPolicy/alpha/test closes this direction "
        "and nothing allows it",
        "verdict: denied",
    ]


def test_a_denying_rule_is_named_beside_those_that_allow() -> None:
    answer = ask(
        "cli",
        "web",
        cnp(f"[{{ingress: [{{{FROM_CLI}}}], ingressDeny: [{{{FROM_CLI}, {ports('80/TCP')}}}]}}]"),
    )
    assert answer.verdict == 181
    ingress = answer.as_dict()["judgements"][1]
    assert ingress == {
        "direction": "ingress",
        "subject": "web",
        "peer": "cli",
        "enforced": True,
        "verdict": "denied",
        "reason": 181,
        "match": "L3-L4",
        "rule": "CiliumNetworkPolicy/alpha/test specs[0].ingressDeny[0]",
        "allowing": ["CiliumNetworkPolicy/alpha/test specs[0].ingress[0]"],
        "denying": ["CiliumNetworkPolicy/alpha/test specs[0].ingressDeny[0]"],
        "closing": ["CiliumNetworkPolicy/alpha/test"],
        "remarks": [],
    }


def test_nodes_and_the_world_have_no_policy() -> None:
    answer = ask("node2", "E1", ccnp("[{ingress: [{}], egress: [{}]}]", "{}"))
    assert answer.judgements == () and answer.verdict == 0
    assert "no policy applies to either end" in answer.text()


def test_a_pod_reaches_itself() -> None:
    answer = ask("web", "web", ccnp("[{ingress: [{}], egress: [{}]}]"))
    assert answer.verdict == 0
    assert "a pod always reaches itself" in answer.text()


def test_localhost_is_named() -> None:
    answer = ask("node1", "web", cnp("[{ingress: [{}]}]"))
    assert answer.judgements[0].text() == "ingress of web: allowed (L3-Only) by reserved/allow-localhost"


def test_blocks_need_an_address() -> None:
    policy = knp("{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16}}]}]}", "cli")
    source, web = end("cli", CLUSTER.parties["cli"]), CLUSTER.parties["web"]
    answer = trace(source, End("web", web.labels), 6, 80, Rulebook(policy.rules))
    assert answer.verdict == 133
    assert "the address of web is not known: rules with an ipBlock were left out" in answer.text()
    answer = trace(source, end("web", web), 6, 80, Rulebook(policy.rules))
    assert answer.verdict == 0
    assert str(answer.judgements[0].decision.block) == "10.1.0.0/16"


def test_an_api_server_outside_is_an_entity_and_an_address() -> None:
    labels = {"reserved:world": "", "reserved:kube-apiserver": "", "cidr:192.0.2.99/32": ""}
    api = End("api", labels, IPv4Address("192.0.2.99"))
    cli = end("cli", CLUSTER.parties["cli"])
    for spec, expected in (
        ("toEntities: [kube-apiserver]", 0),
        ("toEntities: [world]", 0),
        ("toCIDR: [0.0.0.0/0]", 0),
        ("toCIDR: [192.0.2.0/24]", 0),
        ("toEntities: [remote-node]", 133),
    ):
        policy = cnp(f"[{{egress: [{{{spec}}}]}}]", CLI)
        assert trace(cli, api, 6, 443, Rulebook(policy.rules)).verdict == expected, spec
