"""Policies as the API has them, for the tests of parsing."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import strategies as st

from podwire.policy import parse_cilium, parse_kubernetes
from podwire.policy.model import Entry, Policy, Rule

FIELDS = re.findall(
    r"\w+",
    """apiVersion kind metadata spec specs status name namespace endpointSelector nodeSelector ingress
    ingressDeny egress egressDeny enableDefaultDeny fromEndpoints fromCIDR fromCIDRSet fromEntities
    toEndpoints toCIDR toCIDRSet toEntities
    toServices toPorts icmps ports port endPort protocol rules http fields family
    type matchLabels matchExpressions key operator values cidr except k8sService k8sServiceSelector selector
    serviceName podSelector policyTypes namespaceSelector ipBlock from to labels description
    log value mode""",
)
WORDS = [
    "0",
    "80",
    "70000",
    "TCP",
    "any",
    "IPv4",
    "EchoRequest",
    "all",
    "10.0.0.0/8",
    "10.1.2.3",
    "::/0",
    "app",
]
WORDS += ["k8s:app", "In", "Exists", "Ingress"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 70000)
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=25,
)
"""Values that resemble policies; most are wrong somewhere."""


def read(text: str) -> Any:
    return yaml.safe_load(text)


def rule_object(
    text: str, *, selector: str = "{matchLabels: {app: web}}", namespace: str = "alpha"
) -> dict[str, Any]:
    """An object whose ``spec`` is this text, and a subject."""
    spec = {"endpointSelector": read(selector), **read(text)}
    metadata = {"name": "p", "uid": "u", "resourceVersion": "7", "generation": 2}
    return {"metadata": {**metadata, "namespace": namespace} if namespace else metadata, "spec": spec}


def cnp(text: str, **options: str) -> Policy:
    return parse_cilium.network_policy(rule_object(text, **options))


def ccnp(text: str, **options: str) -> Policy:
    return parse_cilium.clusterwide_network_policy(rule_object(text, namespace="", **options))


def knp(text: str) -> Policy:
    """In namespace alpha, for the pods app=web unless the text has a podSelector."""
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, **read(text)}
    return parse_kubernetes.network_policy({"metadata": {"name": "p", "namespace": "alpha"}, "spec": spec})


def only_rule(policy: Policy) -> Rule:
    assert policy.errors == ()
    [rule] = policy.rules
    return rule


def only_entry(policy: Policy) -> Entry:
    [entry] = only_rule(policy).entries
    return entry
