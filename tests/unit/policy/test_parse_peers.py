"""Peers of Cilium's policies: selectors and their namespaces, entities, CIDRs, services."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from podwire.policy import selectors
from podwire.policy.model import Cidr, Endpoints, Entity, Peer, Policy, Service

from .objects import ccnp, cnp, only_entry

ALPHA = "k8s:io.kubernetes.pod.namespace=alpha"
POD = "k8s:io.kubernetes.pod.namespace"


def net(text: str) -> IPv4Network:
    return IPv4Network(text)


def peer_texts(policy: Policy) -> list[str]:
    peers = only_entry(policy).peers
    assert peers is not None
    return [selectors.text(peer.selector) for peer in peers if isinstance(peer, Endpoints)]


# -- absent, empty, everything -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "peers"),
    [
        ("{toPorts: [{ports: [{port: '80'}]}]}", None),
        ("{icmps: [{fields: [{type: 8}]}]}", None),
        ("{fromEndpoints: []}", ()),
        ("{fromEndpoints: [], toPorts: [{ports: [{port: '80'}]}]}", ()),
        ("{fromCIDR: []}", ()),
        ("{fromCIDRSet: []}", ()),
        ("{fromEntities: []}", ()),
        ("{fromNodes: []}", ()),
        ("{fromGroups: []}", ()),
        ("{fromEntities: [none]}", ()),
        ("{fromEntities: [all]}", (Entity("all"),)),
        ("{fromEndpoints: [], fromEntities: [world]}", (Entity("world"),)),
        ("{fromEntities: [world, world]}", (Entity("world"),)),
    ],
)
def test_who_is_meant(entry: str, peers: tuple[Peer, ...] | None) -> None:
    assert only_entry(cnp(f"ingress: [{entry}]")).peers == peers


# -- namespaces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "own", "clusterwide"),
    [
        ("{}", ALPHA, POD),
        ("{matchLabels: {app: cli}}", f"app=cli, {ALPHA}", f"app=cli, {POD}"),
        ("{matchLabels: {'k8s:app': cli}}", f"k8s:app=cli, {ALPHA}", f"k8s:app=cli, {POD}"),
        ("{matchLabels: {io.kubernetes.pod.namespace: beta}}", *["io.kubernetes.pod.namespace=beta"] * 2),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': beta}}", *[f"{POD}=beta"] * 2),
        (
            "{matchLabels: {'any:io.kubernetes.pod.namespace': beta}}",
            *["io.kubernetes.pod.namespace=beta"] * 2,
        ),
        ("{matchExpressions: [{key: 'k8s:io.kubernetes.pod.namespace', operator: Exists}]}", POD, POD),
        (
            "{matchLabels: {io.cilium.k8s.namespace.labels.team: blue}}",
            "io.cilium.k8s.namespace.labels.team=blue",
            f"io.cilium.k8s.namespace.labels.team=blue, {POD}",
        ),
        ("{matchLabels: {'reserved:host': ''}}", *["reserved:host="] * 2),
        ("{matchExpressions: [{key: 'reserved:world', operator: DoesNotExist}]}", *["!reserved:world"] * 2),
    ],
)
@pytest.mark.parametrize("section", ["ingress", "ingressDeny", "egress", "egressDeny"])
def test_selector_without_a_namespace_means_the_policys(
    selector: str, own: str, clusterwide: str, section: str
) -> None:
    member = "fromEndpoints" if section.startswith("ingress") else "toEndpoints"
    text = f"{section}: [{{{member}: [{selector}]}}]"
    assert peer_texts(cnp(text)) == [own]
    assert peer_texts(ccnp(text)) == [clusterwide]


def test_clusterwide_policy_for_pods_that_begin_means_everybody() -> None:
    text = "ingress: [{fromEndpoints: [{}]}]"
    assert peer_texts(ccnp(text, selector="{matchLabels: {'reserved:init': ''}}")) == ["everything"]


@pytest.mark.parametrize(
    ("selector", "error"),
    [
        ("{matchLabels: {'a b': c}}", 'matchLabels[a b]: "a b" is not a label key'),
        ("{matchLabels: {a: 'b c'}}", 'matchLabels[a]: "b c" is not a label value'),
        ("{matchLabels: {a: " + "b" * 64 + "}}", "matchLabels[a]: "),
        ("{matchLabels: {a: 1}}", "matchLabels[a]: must be a string, not the number 1; write it in quotes"),
        ("{matchLabels: [a]}", "matchLabels: must be an object"),
        ("{matchLabels: {'cidr:10.0.0.0/8': ''}}", "matchLabels[cidr:10.0.0.0/8]: labels of source cidr"),
        ("{matchLabels: {'node:zone': a}}", "matchLabels[node:zone]: labels of nodes are not supported yet"),
        ("{matchExpressions: [{key: a}]}", "matchExpressions[0]: operator must be given"),
        ("{matchExpressions: [{}]}", "matchExpressions[0]: key and operator must be given"),
        (
            "{matchExpressions: [{key: a, operator: in, values: [b]}]}",
            "matchExpressions[0].operator: must be one of",
        ),
        (
            "{matchExpressions: [{key: a, operator: In}]}",
            "matchExpressions[0].values: In needs at least one value",
        ),
        (
            "{matchExpressions: [{key: a, operator: NotIn, values: []}]}",
            "matchExpressions[0].values: NotIn needs",
        ),
        (
            "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            "matchExpressions[0].values: Exists takes no",
        ),
        (
            "{matchExpressions: [{key: a, operator: Exists, value: b}]}",
            "matchExpressions[0].value: unknown field",
        ),
        ("[]", "must be an object"),
    ],
)
def test_selector_that_is_refused(selector: str, error: str) -> None:
    [said, *_] = cnp(f"ingress: [{{fromEndpoints: [{selector}]}}]").errors
    place = "spec.ingress[0].fromEndpoints[0]"
    assert said.startswith(f"{place}.{error}" if error.startswith("match") else f"{place}: {error}"), said


@pytest.mark.parametrize(
    ("selector", "warning"),
    [
        ("{matchLabels: {pod-template-hash: x}}", "the label pod-template-hash is not part of identities"),
        ("{matchLabels: {'foo:bar': x}}", "no endpoint has labels of source 'foo'"),
    ],
)
def test_selector_that_matches_nothing_is_told(selector: str, warning: str) -> None:
    policy = cnp(f"ingress: [{{fromEndpoints: [{selector}]}}]")
    assert policy.errors == ()
    assert warning in policy.warnings[0]


# -- entities, CIDRs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "all",
        "world",
        "cluster",
        "host",
        "init",
        "ingress",
        "unmanaged",
        "remote-node",
        "health",
        "kube-apiserver",
    ],
)
def test_entity(name: str) -> None:
    assert only_entry(cnp(f"egress: [{{toEntities: [{name}]}}]")).peers == (Entity(name),)


@pytest.mark.parametrize(
    ("items", "peers"),
    [
        ("[192.0.2.0/24]", [Cidr(net("192.0.2.0/24"))]),
        ("[192.0.2.10]", [Cidr(net("192.0.2.10/32"))]),
        ("[192.0.2.10/24]", [Cidr(net("192.0.2.0/24"))]),
        ("[0.0.0.0/0]", [Cidr(net("0.0.0.0/0"))]),
        ("[10.0.0.0/8, 192.0.2.10]", [Cidr(net("10.0.0.0/8")), Cidr(net("192.0.2.10/32"))]),
    ],
)
def test_cidr(items: str, peers: list[Cidr]) -> None:
    assert only_entry(cnp(f"egress: [{{toCIDR: {items}}}]")).peers == tuple(peers)


@pytest.mark.parametrize(
    ("item", "peer"),
    [
        ("{cidr: 192.0.2.0/24}", Cidr(net("192.0.2.0/24"))),
        ("{cidr: 192.0.2.0/24, except: []}", Cidr(net("192.0.2.0/24"))),
        ("{cidr: 192.0.2.0/24, except: [192.0.2.10/32]}", Cidr(net("192.0.2.0/24"), (net("192.0.2.10/32"),))),
        # The address counts, and the bits behind the length may be set.
        ("{cidr: 10.1.0.0/16, except: [10.1.0.0/8]}", Cidr(net("10.1.0.0/16"), (net("10.0.0.0/8"),))),
        ("{cidr: 10.1.2.3/16, except: [10.1.2.3/24]}", Cidr(net("10.1.0.0/16"), (net("10.1.2.0/24"),))),
    ],
)
def test_cidr_set(item: str, peer: Cidr) -> None:
    assert only_entry(cnp(f"ingress: [{{fromCIDRSet: [{item}]}}]")).peers == (peer,)


@pytest.mark.parametrize(
    "entry", ["{toCIDR: ['2001:db8::/32']}", "{toCIDRSet: [{cidr: '::/0', except: ['::1/128']}]}"]
)
def test_ipv6_matches_nothing_and_is_told(entry: str) -> None:
    policy = cnp(f"egress: [{entry}]")
    assert only_entry(policy).peers == ()
    assert "pods have no IPv6 addresses" in policy.warnings[0]


# -- services ------------------------------------------------------------------------------------------------


def test_service_by_name() -> None:
    entry = only_entry(cnp("egress: [{toServices: [{k8sService: {serviceName: db, namespace: beta}}]}]"))
    assert entry.peers == (Service("beta", "db"),)


def test_service_of_any_namespace() -> None:
    entry = only_entry(cnp("egress: [{toServices: [{k8sService: {serviceName: db}}]}]"))
    assert entry.peers == (Service("", "db"),)


def test_service_by_labels() -> None:
    entry = only_entry(
        cnp(
            """
            egress:
            - toServices:
              - k8sServiceSelector: {selector: {matchLabels: {pod-template-hash: x}}, namespace: beta}
              toPorts: [{ports: [{port: "443"}]}]
            """
        )
    )
    [peer] = entry.peers or ()
    assert isinstance(peer, Service)
    assert (peer.namespace, peer.name) == ("beta", "")
    assert peer.selector is not None
    assert selectors.matches(peer.selector, {"k8s:pod-template-hash": "x"})


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (
            "ingress: [{fromEndpoints: [{}], fromCIDR: [192.0.2.0/24]}]",
            "fromEndpoints and fromCIDR cannot stand in one",
        ),
        (
            "egress: [{toEntities: [world], toCIDRSet: [{cidr: 192.0.2.0/24}]}]",
            "toCIDRSet and toEntities cannot",
        ),
        (
            "ingress: [{fromEntities: [everybody]}]",
            'fromEntities[0]: "everybody" is no entity; known are all, world',
        ),
        ("ingress: [{fromEntities: [World]}]", 'fromEntities[0]: "World" is no entity'),
        ("ingress: [{fromCIDR: [192.0.2.0/33]}]", 'fromCIDR[0]: "192.0.2.0/33" is not an IP prefix'),
        ("ingress: [{fromCIDR: [192.0.2.300]}]", "fromCIDR[0]: "),
        ("ingress: [{fromCIDR: [192.0.2.0/255.255.255.0]}]", "fromCIDR[0]: "),
        ("ingress: [{fromCIDR: [192.0.2.0/08]}]", "fromCIDR[0]: "),
        ("ingress: [{fromCIDR: ['fe80::1%eth0']}]", "fromCIDR[0]: "),
        ("ingress: [{fromCIDR: ['']}]", "fromCIDR[0]: "),
        ("ingress: [{fromCIDR: [8]}]", "fromCIDR[0]: must be a string"),
        (
            "ingress: [{fromCIDRSet: [{cidr: 192.0.2.10}]}]",
            "needs a prefix length; one address is 192.0.2.10/32",
        ),
        ("ingress: [{fromCIDRSet: [{}]}]", "exactly one of cidr, cidrGroupRef and cidrGroupSelector"),
        ("ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: x}]}]", "exactly one of cidr"),
        ("ingress: [{fromCIDRSet: [{cidrGroupRef: x}]}]", "groups of CIDRs are not supported yet; list"),
        (
            "ingress: [{fromCIDRSet: [{cidrGroupSelector: {}}]}]",
            "groups of CIDRs are not supported yet; list",
        ),
        (
            "ingress: [{fromCIDRSet: [{cidr: 192.0.2.0/24, except: [198.51.100.0/25]}]}]",
            'fromCIDRSet[0].except[0]: "198.51.100.0/25" is not inside of 192.0.2.0/24',
        ),
        (
            "ingress: [{fromCIDRSet: [{cidr: 192.0.2.0/24, except: ['::/128']}]}]",
            "is not inside of 192.0.2.0/24",
        ),
        (
            "ingress: [{fromCIDRSet: [{cidr: 10.1.0.0/16, except: [10.0.0.0/8]}]}]",
            "is not inside of 10.1.0.0/16",
        ),
        ("ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.1]}]}]", "one address is 10.0.0.1/32"),
        (
            "ingress: [{fromNodes: [{}]}]",
            "fromNodes: not supported yet; use the entities host and remote-node",
        ),
        ("egress: [{toNodes: [{}]}]", "toNodes: not supported yet"),
        ("egress: [{toGroups: [{aws: {}}]}]", "toGroups: not supported; list the addresses as CIDRs"),
        (
            "egress: [{toFQDNs: [{matchName: a.example}]}]",
            "toFQDNs: not supported yet; list the addresses as CIDRs",
        ),
        ("egress: [{toServices: [{}]}]", "exactly one of k8sService and k8sServiceSelector"),
        ("egress: [{toServices: [{k8sService: {namespace: a}}]}]", "k8sService.serviceName: must be given"),
        ("egress: [{toServices: [{k8sServiceSelector: {}}]}]", "k8sServiceSelector.selector: must be given"),
    ],
)
def test_peers_that_are_refused(entry: str, error: str) -> None:
    policy = cnp(entry)
    assert policy.rules == ()
    assert any(error in said for said in policy.errors), policy.errors
