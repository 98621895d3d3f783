"""The numbered cases of NetworkPolicy, alone and beside CiliumNetworkPolicy."""

from __future__ import annotations

import pytest

from .cases import CLI, FROM_BETA, FROM_CLI, NAMESPACE, Case, case, check, cnp, knp, ports

CASES = [
    case("59 KNP without anything", "cli > web: 133; web > E1: ok; node1 > web: ok", knp("{}")),
    case("60 KNP open", "E1 > web: ok; job > web icmp/8: ok", knp("{ingress: [{}]}")),
    case(
        "61 KNP egress closed",
        "cli > web: 133; web > cli: ok",
        knp("{policyTypes: [Egress]}", "cli"),
    ),
    case(
        "62 KNP type implied",
        "cli > web: 133; web > cli: ok; web > E1: 133",
        knp("{egress: [{to: [{podSelector: {matchLabels: {app: cli}}}]}]}"),
    ),
    case(
        "63 KNP both in one item",
        "beta/cli > web: ok; job > web: 133; cli > web: 133",
        knp(
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}},"
            " podSelector: {matchLabels: {app: cli}}}]}]}"
        ),
    ),
    case(
        "64 KNP two items",
        "job > web: ok; cli > web: ok; E1 > web: 133; node2 > web: 133",
        knp(
            "{ingress: [{from: [{namespaceSelector: {matchLabels: {team: blue}}},"
            " {podSelector: {matchLabels: {app: cli}}}]}]}"
        ),
    ),
    case(
        "65 KNP protocol alone",
        "cli > web udp/80: ok; cli > web: 133",
        knp("{ingress: [{ports: [{protocol: UDP}]}]}"),
    ),
    case(
        "66 KNP open, CNP denies",
        "cli > web: ok; beta/cli > web: 181; beta/cli > web tcp/81: 133",
        knp("{ingress: [{ports: [{port: 80}]}]}"),
        cnp(f"[{{ingressDeny: [{{{FROM_BETA}, {ports('80/TCP')}}}]}}]"),
    ),
    case(
        "67 one union",
        "cli > web: ok; job > web: 133",
        knp("{}"),
        cnp(f"[{{ingress: [{{{FROM_CLI}}}]}}]"),
    ),
    case(
        "e2e 34 KNP block that is a pod",
        "cli > web: ok; cli > far: 133",
        knp("{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.1/32}}]}]}", "cli"),
    ),
    case(
        "e2e 35 KNP block without a pod",
        "cli > web: 133; cli > job: ok; cli > node1: 133",
        knp(
            "{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.1/32]}}]}]}",
            "cli",
        ),
    ),
    case(
        "e2e 36 KNP block, two policies",
        "cli > web: ok; cli > job: ok",
        knp(
            "{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}",
            "cli",
        ),
        knp("{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.1.0.1/32}}]}]}", "cli"),
    ),
    case(
        "KNP block with a port, CNP denies the pod",
        "cli > web: ok; cli > web tcp/81: 133; cli > job: 181",
        knp(
            "{policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 80}]}]}",
            "cli",
        ),
        cnp(
            f"[{{egressDeny: [{{toEndpoints: [{{matchLabels: {{app: job, '{NAMESPACE}': beta}}}}]}}]}}]",
            CLI,
        ),
    ),
]


@pytest.mark.parametrize("of", CASES)
def test_case(of: Case) -> None:
    check(of)
