"""The numbered cases of CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy."""

from __future__ import annotations

import pytest

from podwire.policy.model import Enforcement

from .cases import CLI, FROM_CLI, NAMESPACE, Case, case, ccnp, check, cnp, ports

CASES = [
    case("1 no policy", "cli > web: ok; job > web: ok; E1 > web: ok"),
    case(
        "2 always",
        "cli > web: 133; node1 > web: ok; node2 > web: 133; web > E1: 133",
        mode=Enforcement.ALWAYS,
    ),
    case("3 never", "job > web: ok", cnp("[{ingress: [{}]}]"), mode=Enforcement.NEVER),
    case(
        "3 never, deny",
        "job > web: ok",
        cnp("[{ingressDeny: [{fromEntities: [all]}]}]"),
        mode=Enforcement.NEVER,
    ),
    case("4 one empty entry", "cli > web: 133; web > E1 tcp/443: ok", cnp("[{ingress: [{}]}]")),
    case(
        "6 endpoints of the namespace",
        "cli > web: ok; beta/cli > web: 133; E1 > web: 133",
        cnp("[{ingress: [{fromEndpoints: [{}]}]}]"),
    ),
    case("7 nobody", "cli > web: 133; node1 > web: ok", cnp("[{ingress: [{fromEndpoints: []}]}]")),
    case(
        "7 nobody, a port",
        "cli > web: 133",
        cnp(f"[{{ingress: [{{fromEndpoints: [], {ports('80/TCP')}}}]}}]"),
    ),
    case(
        "8 a port for everybody",
        "job > web: ok; E1 > web: ok; job > web tcp/81: 133; job > web icmp/8: 133",
        cnp(f"[{{ingress: [{{{ports('80/TCP')}}}]}}]"),
    ),
    case(
        "9 namespace defaulted",
        "cli > web: ok; far > web: ok; beta/cli > web: 133",
        cnp(f"[{{ingress: [{{{FROM_CLI}}}]}}]"),
    ),
    case(
        "10 another namespace",
        "beta/cli > web: ok; cli > web: 133",
        cnp(f"[{{ingress: [{{fromEndpoints: [{{matchLabels: {{app: cli, '{NAMESPACE}': beta}}}}]}}]}}]"),
    ),
    case(
        "11 any namespace",
        "job > web: ok; E1 > web: 133; node2 > web: 133",
        cnp(
            "[{ingress: [{fromEndpoints: [{matchExpressions:"
            f" [{{key: '{NAMESPACE}', operator: Exists}}]}}]}}]}}]"
        ),
    ),
    case(
        "12 a namespace's label",
        "job > web: ok; cli > web: 133",
        cnp(
            "[{ingress: [{fromEndpoints:"
            " [{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': blue}}]}]}]"
        ),
    ),
    case(
        "13 subjects are of the namespace",
        "cli > job: ok; E1 > job: ok",
        cnp("[{ingress: [{}]}]", f"{{matchLabels: {{app: job, '{NAMESPACE}': beta}}}}"),
    ),
    case(
        "14 clusterwide",
        "job > web: ok; E1 > web: 133; node2 > web: 133",
        ccnp("[{ingress: [{fromEndpoints: [{}]}]}]"),
    ),
    case(
        "15 peer and port",
        "cli > web: ok; cli > web tcp/81: 133; cli > web icmp/8: 133",
        cnp(f"[{{ingress: [{{{FROM_CLI}, {ports('80/TCP')}}}]}}]"),
    ),
    case(
        "16 peer alone",
        "cli > web tcp/81: ok; cli > web udp/80: ok; cli > web icmp/8: ok",
        cnp(f"[{{ingress: [{{{FROM_CLI}}}]}}]"),
    ),
    case(
        "17 echo",
        "job > web icmp/8: ok; job > web icmp/13: 133; job > web: 133",
        cnp("[{ingress: [{icmps: [{fields: [{type: EchoRequest}]}]}]}]"),
    ),
    case(
        "18 a denied port",
        "cli > web: 181; cli > web tcp/81: ok; cli > web icmp/8: ok",
        cnp(f"[{{ingress: [{{{FROM_CLI}}}], ingressDeny: [{{{FROM_CLI}, {ports('80/TCP')}}}]}}]"),
    ),
    case(
        "19 a denied peer",
        "cli > web: 181; cli > web icmp/8: 181; job > web: ok",
        cnp(f"[{{ingress: [{{{ports('80/TCP')}}}], ingressDeny: [{{{FROM_CLI}}}]}}]"),
    ),
    case(
        "20 deny closes",
        "cli > web: 133; E1 > web: 181; E1+1 > web: 133",
        cnp("[{ingressDeny: [{fromCIDR: [192.0.2.10/32]}]}]"),
    ),
    case(
        "21 deny without closing",
        "cli > web: ok; E1 > web: 181; E1+1 > web: ok",
        cnp("[{ingressDeny: [{fromCIDR: [192.0.2.10/32]}], enableDefaultDeny: {ingress: false}}]"),
    ),
    case(
        "22 one rule closes for all",
        "job > web: 133; cli > web: ok; E1 > web: 181",
        cnp(
            "[{ingressDeny: [{fromCIDR: [192.0.2.10/32]}], enableDefaultDeny: {ingress: false}},"
            f" {{ingress: [{{{FROM_CLI}}}]}}]"
        ),
    ),
    case("25 localhost", "node1 > web: ok; node2 > web: 133", cnp("[{ingress: [{}]}]")),
    case(
        "26 localhost denied",
        "node1 > web: 181; node2 > web: 133",
        cnp("[{ingress: [{}], ingressDeny: [{fromEntities: [host]}]}]"),
    ),
    case(
        "27 remote nodes",
        "node2 > web: ok; api > web: ok; job > web: 133",
        cnp("[{ingress: [{fromEntities: [remote-node]}]}]"),
    ),
    case(
        "28 cluster",
        "job > web: ok; node2 > web: ok; health > web: ok; E1 > web: 133",
        cnp("[{ingress: [{fromEntities: [cluster]}]}]"),
    ),
    case(
        "29 world",
        "E1 > web: ok; job > web: 133; node2 > web: 133",
        cnp("[{ingress: [{fromEntities: [world]}]}]"),
    ),
    case(
        "29 world holds prefixes that others name",
        "E1 > web: ok; E1+1 > web: ok; E2 > web: ok",
        cnp("[{ingress: [{fromEntities: [world]}]}]"),
        cnp("[{egress: [{toCIDR: [192.0.2.10/32]}]}]", CLI),
    ),
    case(
        "30 all",
        "E1 > web: ok; job > web icmp/8: ok; node2 > web: ok",
        cnp("[{ingress: [{fromEntities: [all]}]}]"),
    ),
    case(
        "30 none",
        "E1 > web: 133; job > web: 133; node2 > web: 133; node1 > web: ok",
        cnp("[{ingress: [{fromEntities: [none]}]}]"),
    ),
    case(
        "31 pods and nodes are no CIDR",
        "cli > E1: ok; cli > web: 133; cli > node2: 133; cli > node1: 133",
        cnp("[{egress: [{toCIDR: [0.0.0.0/0]}]}]", CLI),
    ),
    case(
        "32 except",
        "cli > E1: 133; cli > E1+1: ok; cli > E2: 133",
        cnp("[{egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.10/32]}]}]}]", CLI),
    ),
    case(
        "33 except is no deny",
        "cli > E1: ok; cli > E1+1: ok",
        cnp(
            "[{egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.10/32]}]}]},"
            " {egress: [{toCIDR: [192.0.2.10/32]}]}]",
            CLI,
        ),
    ),
    case(
        "34 the backend's port",
        "cli > web: ok; cli > web tcp/8080: 133",
        cnp(f"[{{egress: [{{toEndpoints: [{{matchLabels: {{app: web}}}}], {ports('80/TCP')}}}]}}]", CLI),
    ),
    case(
        "34 not the service's",
        "cli > web: 133",
        cnp(f"[{{egress: [{{toEndpoints: [{{matchLabels: {{app: web}}}}], {ports('8080/TCP')}}}]}}]", CLI),
    ),
    case(
        "35 both ends",
        "cli > web: ok then 133",
        cnp("[{egress: [{toEndpoints: [{matchLabels: {app: web}}]}]}]", CLI),
        cnp("[{ingress: [{}]}]"),
    ),
    case(
        "36 named port",
        "cli > web: ok; cli > web tcp/81: 133; cli > web udp/80: 133",
        cnp(f"[{{ingress: [{{{ports('http/TCP')}}}]}}]"),
    ),
    case("36 unknown name", "cli > web: 133", cnp(f"[{{ingress: [{{{ports('nosuch')}}}]}}]")),
    case(
        "36 named port of the peer",
        "cli > web: ok; cli > web tcp/81: 133; cli > job: 133; cli > E1: 133",
        cnp(f"[{{egress: [{{{ports('HTTP/TCP')}}}]}}]", CLI),
    ),
    case(
        "37 range",
        "cli > web: ok; cli > web tcp/81: ok; cli > web tcp/82: 133; cli > web tcp/79: 133",
        cnp("[{ingress: [{toPorts: [{ports: [{port: '80', endPort: 81, protocol: TCP}]}]}]}]"),
    ),
    case(
        "38 any protocol",
        "cli > web: ok; cli > web udp/80: ok; cli > web sctp/80: ok; cli > web icmp/8: 133",
        cnp(f"[{{ingress: [{{{ports('80/ANY')}}}]}}]"),
    ),
    case("38 UDP", "cli > web: 133; cli > web udp/80: ok", cnp(f"[{{ingress: [{{{ports('80/UDP')}}}]}}]")),
    case(
        "39 port 0",
        "cli > web tcp/81: ok; cli > web udp/80: 133",
        cnp(f"[{{ingress: [{{{ports('0/TCP')}}}]}}]"),
    ),
    case(
        "68 what a node masquerades is the node's",
        "node2 > web: 133; E1 > web: ok",
        cnp("[{ingress: [{fromEntities: [world]}]}]"),
    ),
    case(
        "68 cluster has nodes",
        "node2 > web: ok; E1 > web: 133",
        cnp("[{ingress: [{fromEntities: [cluster]}]}]"),
    ),
    case(
        "69 API server",
        "cli > api: ok; cli > node2: 133; cli > E1: 133",
        cnp("[{egress: [{toEntities: [kube-apiserver]}]}]", CLI),
    ),
    case(
        "70 service without selector",
        "cli > E2: ok; cli > E1: 133",
        cnp("[{egress: [{toServices: [{k8sService: {serviceName: outer, namespace: alpha}}]}]}]", CLI),
    ),
    case(
        "70 service of pods",
        "cli > web: ok; cli > far: 133; cli > E2: 133",
        cnp("[{egress: [{toServices: [{k8sService: {serviceName: web, namespace: alpha}}]}]}]", CLI),
    ),
]


@pytest.mark.parametrize("of", CASES)
def test_case(of: Case) -> None:
    check(of)
