"""The definitions of our kinds of objects: the API server takes them, and they take what the agents take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from podwire.agent import identity_objects
from podwire.agent.identity_view import RemoteEndpoint
from podwire.policy import identity, labels, parse_cilium

from . import structural
from .objects import JSON, read, rule_object

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "roles/agent/files/crds"
NAMES = sorted(path.stem for path in FOLDER.iterdir())
POLICIES = ("ciliumnetworkpolicies.cilium.io", "ciliumclusterwidenetworkpolicies.cilium.io")


def definition(name: str) -> Any:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def schema(name: str) -> Any:
    [version] = definition(name)["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def errors(name: str, value: Any) -> list[str]:
    """What the API server would say of an object."""
    return [error.message for error in Draft4Validator(schema(name)).iter_errors(value)]


RULES = Draft4Validator(schema(POLICIES[0]))


# -- definitions ---------------------------------------------------------------------------------------------


def test_the_role_applies_every_file() -> None:
    names = yaml.safe_load((ROOT / "roles/agent/vars/main.yml").read_text())
    assert sorted(names["podwire_agent_crds"] + names["podwire_agent_policy_crds"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_definition_is_well_formed(name: str) -> None:
    value = definition(name)
    spec, names = value["spec"], value["spec"]["names"]
    assert value["apiVersion"] == "apiextensions.k8s.io/v1"
    assert value["metadata"]["name"] == name == f"{names['plural']}.{spec['group']}"
    assert names["listKind"] == names["kind"] + "List"
    assert names["singular"] == names["kind"].lower()
    [version] = spec["versions"]
    assert version["served"] and version["storage"]
    assert value["metadata"]["labels"]["app.kubernetes.io/name"] == "podwire"


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_structural(name: str) -> None:
    found = schema(name)
    assert list(structural.complaints(found)) == []
    [version] = definition(name)["spec"]["versions"]
    if "subresources" in version:
        assert set(found) <= structural.AT_ROOT_BESIDE_A_STATUS
    Draft4Validator.check_schema(found)


def test_kinds_of_policies_are_ciliums() -> None:
    found = {name: definition(name)["spec"] for name in POLICIES}
    facts = [
        (spec["names"]["kind"], spec["scope"], spec["names"]["shortNames"], spec["versions"][0]["name"])
        for spec in found.values()
    ]
    assert facts == [
        ("CiliumNetworkPolicy", "Namespaced", ["cnp", "ciliumnp"], "v2"),
        ("CiliumClusterwideNetworkPolicy", "Cluster", ["ccnp"], "v2"),
    ]
    for spec in found.values():
        [version] = spec["versions"]
        assert version["subresources"] == {"status": {}}
        assert [column["name"] for column in version["additionalPrinterColumns"]] == ["Age", "Valid"]


def test_both_kinds_of_policies_take_the_same() -> None:
    assert without_words(schema(POLICIES[0])) == without_words(schema(POLICIES[1]))


def without_words(value: Any) -> Any:
    """A schema without its descriptions."""
    if isinstance(value, dict):
        return {
            key: without_words(item)
            for key, item in value.items()
            if key != "description" or not isinstance(item, str)
        }
    return [without_words(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", POLICIES)
def test_unknown_fields_reach_the_agents(name: str) -> None:
    """The API server would drop them silently, and what is left could allow more."""
    dropping = [place for place, kept in structural.open_objects(schema(name)) if not kept]
    assert dropping == []


def test_structural_check_sees_what_is_wrong() -> None:
    wrong = {
        "type": "object",
        "properties": {
            "a": {"description": "no type"},
            "b": {"type": "array"},
            "c": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        },
        "anyOf": [{"required": ["d"]}, {"properties": {"a": {"type": "string"}}}],
        "patternProperties": {},
    }
    assert len(list(structural.complaints(wrong))) == 6


# -- policies ------------------------------------------------------------------------------------------------

GOOD = [
    "ingress: [{}]",
    "ingress: [{fromEndpoints: [{matchLabels: {org: empire}}], toPorts: [{ports: [{port: '80'}]}]}]",
    "ingress: [{fromEndpoints: [{matchExpressions: [{key: a, operator: NotIn, values: ['', b]}]}]}]",
    "ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}]",
    "ingress: [{fromEntities: [remote-node, kube-apiserver]}]",
    "egress: [{toCIDR: [192.0.2.10, '2001:db8::/32'], toPorts: [{ports: [{port: http}, {port: '0'}]}]}]",
    "egress: [{toPorts: [{ports: [{port: '65535'}, {port: serve-80-tcp}, {port: '80', endPort: 0}]}]}]",
    "egress: [{toServices: [{k8sService: {serviceName: a}}, {k8sServiceSelector: {selector: {}}}]}]",
    "egress: [{icmps: [{fields: [{type: 8}, {type: EchoReply, family: IPv4}]}]}]",
    "{egressDeny: [{toEntities: [world]}], enableDefaultDeny: {egress: false}, log: {value: x}}",
    "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}]",
    "egress: [{toFQDNs: [{matchPattern: '*.example.com'}]}]",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
@pytest.mark.parametrize("name", POLICIES)
def test_policy_is_taken(name: str, text: str) -> None:
    assert errors(name, rule_object(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "ingress: []",
        "ingress: {}",
        "{ingress: [{}], nodeSelector: {}}",
        "ingress: [{toPorts: [{ports: [{port: 80}]}]}]",
        "ingress: [{toPorts: [{ports: [{protocol: TCP}]}]}]",
        "ingress: [{toPorts: [{ports: [{port: '80', protocol: ICMP}]}]}]",
        "ingress: [{toPorts: [{ports: [{port: '80-90'}]}]}]",
        "ingress: [{toPorts: [{ports: [{port: '65536'}]}]}]",
        "ingress: [{toPorts: [{ports: [{port: '80', endPort: 65536}]}]}]",
        "ingress: [{toPorts: [{ports: [" + "{port: '80'}, " * 41 + "]}]}]",
        "ingress: [{icmps: [{fields: [" + "{type: 8}, " * 41 + "]}]}]",
        "ingress: [{fromEntities: [everybody]}]",
        "ingress: [{fromCIDRSet: [{}]}]",
        "ingress: [{fromCIDRSet: [{cidr: 10.0.0.1}]}]",
        "ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: x}]}]",
        "ingress: [{fromEndpoints: [{matchLabels: {a: b c}}]}]",
        "ingress: [{fromEndpoints: [{matchExpressions: [{key: a, operator: Like}]}]}]",
        "ingress: [{fromEndpoints: null}]",
        "ingress: [{authentication: {mode: maybe}}]",
        "egress: [{toServices: [{}]}]",
        "{ingress: [{}], log: {value: " + "x" * 33 + "}}",
    ],
)
def test_policy_that_the_api_server_refuses_is_none_for_the_agents(text: str) -> None:
    value = rule_object(text)
    assert list(RULES.iter_errors(value))
    assert parse_cilium.network_policy(value).errors


@pytest.mark.parametrize(
    "text", ["ingress: [{toPort: [{ports: []}]}]", "ingress: [{fromEndpoints: [{matchlabels: {}}]}]"]
)
def test_misspelled_field_is_taken_and_marked_invalid(text: str) -> None:
    value = rule_object(text)
    assert list(RULES.iter_errors(value)) == []
    assert "unknown field" in parse_cilium.network_policy(value).errors[0]


@given(JSON, st.sampled_from(["ingress", "ingressDeny", "egress", "egressDeny"]))
def test_what_the_agents_take_the_api_server_takes(value: Any, section: str) -> None:
    whole = {"metadata": {"name": "p", "namespace": "a"}, "spec": {"endpointSelector": {}, section: [value]}}
    if not parse_cilium.network_policy(whole).errors:
        assert list(RULES.iter_errors(whole)) == []


MEMBERS = {
    "ingress": st.fixed_dictionaries(
        {},
        optional={
            "fromEndpoints": st.lists(
                st.sampled_from([{}, {"matchLabels": {"k8s:app": ""}}, {"matchLabels": {"a": "b"}}]),
                max_size=2,
            ),
            "toPorts": st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "ports": st.lists(
                            st.fixed_dictionaries(
                                {"port": st.from_regex(r"[0-9]{1,5}|[a-zA-Z0-9-]{1,15}", fullmatch=True)},
                                optional={
                                    "protocol": st.sampled_from(["", "TCP", "udp", "Any", "sctp"]),
                                    "endPort": st.integers(0, 65535),
                                },
                            ),
                            max_size=3,
                        )
                    },
                ),
                max_size=2,
            ),
        },
    ),
    "egress": st.fixed_dictionaries(
        {},
        optional={
            "toCIDRSet": st.lists(
                st.fixed_dictionaries(
                    {"cidr": st.ip_addresses().map(lambda address: f"{address}/8")},
                    optional={"except": st.just([])},
                ),
                max_size=2,
            ),
            "icmps": st.lists(
                st.fixed_dictionaries(
                    {}, optional={"fields": st.lists(st.fixed_dictionaries({"type": st.integers(0, 255)}))}
                ),
                max_size=2,
            ),
        },
    ),
}


@given(st.fixed_dictionaries({name: st.lists(entry, max_size=2) for name, entry in MEMBERS.items()}))
def test_policies_near_the_edge_are_taken_by_both_or_refused_by_the_agents(sections: dict[str, Any]) -> None:
    whole = {"metadata": {"name": "p", "namespace": "a"}, "spec": {"endpointSelector": {}, **sections}}
    if not parse_cilium.network_policy(whole).errors:
        assert list(RULES.iter_errors(whole)) == []


def test_status_of_an_agent_is_taken() -> None:
    condition = read(
        "{type: Valid, status: 'False', reason: x, message: y, lastTransitionTime: '2026-01-01T00:00:00Z'}"
    )
    for name in POLICIES:
        assert errors(name, {**rule_object("ingress: [{}]"), "status": {"conditions": [condition]}}) == []


# -- what agents write ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "taken"), [(255, False), (256, True), (9999, True), (65535, True), (65536, False)]
)
def test_identity(number: int, taken: bool) -> None:
    body = identity_objects.identity_body(number, labels.pod_labels({"app": "web"}, "alpha"))
    assert bool(errors("identities.podwire.io", body)) is not taken
    assert identity.is_label_identity(number) is taken


def test_node_endpoints() -> None:
    endpoint = RemoteEndpoint("node1", "alpha", "web", "10.1.2.3", 300, frozenset({("http", 6, 80)}))
    body = {"metadata": {"name": "node1"}, "spec": {"endpoints": [identity_objects.endpoint_body(endpoint)]}}
    assert errors("nodeendpoints.podwire.io", body) == []
    status = {"observed": {"networkpolicies": "12"}, "revision": 3, "problems": ["x"]}
    assert errors("nodeendpoints.podwire.io", {**body, "status": status}) == []
    body["spec"]["endpoints"][0]["identity"] = 0
    assert errors("nodeendpoints.podwire.io", body)
