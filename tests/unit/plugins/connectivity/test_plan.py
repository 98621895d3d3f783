"""A table of expectations becomes probes, and a row that would test nothing is refused."""

from __future__ import annotations

import json

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.connectivity_plan import (
    Objects,
    from_dict,
    probes,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError


def pod(name, address, node="n1", phase="Running", owner=None, host=False, deleted=False, **labels):
    metadata = {"namespace": "default", "name": name, "labels": labels}
    if owner:
        metadata["ownerReferences"] = [{"kind": "ReplicaSet", "name": owner}]
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {"nodeName": node, **({"hostNetwork": True} if host else {})}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase, "podIP": address}}


PODS = [
    pod("star-5f6d-aa", "10.1.0.2", owner="star-5f6d", app="star"),
    pod("star-5f6d-bb", "10.1.1.2", "n2", owner="star-5f6d", app="star"),
    pod("star-far-77-cc", "10.1.1.3", "n2", owner="star-far-77", app="other"),
    pod("ship", "10.1.1.9", "n2", app="ship"),
    pod("late", None, phase="Pending", app="late"),
    pod("old", "10.1.0.9", deleted=True, app="ship"),
    pod("agent", "172.30.1.11", host=True, app="agent"),
]
SERVICES = {
    "star": {"clusterIP": "10.152.183.9", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
    "two": {"clusterIP": "10.152.183.8", "ports": [{"port": 80}, {"port": 81}]},
    "headless": {"clusterIP": "None", "ports": [{"port": 80}]},
}
NODES = {"n2": {"status": {"addresses": [{"type": "InternalIP", "address": "172.30.1.21"}]}}}


@pytest.fixture
def objects():
    asked = []

    def pods(namespace):
        asked.append(namespace)
        assert asked.count(namespace) == 1, "the API is asked twice"
        return PODS if namespace == "default" else []

    def service(namespace, name):
        return {"spec": SERVICES[name]} if name in SERVICES and namespace == "default" else None

    return Objects(pods, service, NODES.get)


def row(source, target, **values):
    return {
        "from": {"namespace": "default", **source},
        "to": {"namespace": "default", **target},
        "protocol": "TCP",
        "expect": "allowed",
        **values,
    }


def tried(rows, objects):
    return [
        (probe.source.name, probe.source.node, probe.target.address, probe.port)
        for probe in probes(rows, objects)
    ]


def test_a_row_is_tried_between_all_pods_that_it_means(objects):
    rows = [row({"selector": {"app": "ship"}}, {"deployment": "star"}, port=80)]
    assert tried(rows, objects) == [
        ("default/ship", "n2", "10.1.0.2", 80),
        ("default/ship", "n2", "10.1.1.2", 80),
    ], "neither pods of a deployment with a longer name, nor those that go"


def test_a_pod_is_not_tried_with_itself(objects):
    rows = [row({"selector": {"app": "star"}}, {"selector": {"app": "star"}}, port=80)]
    assert [(source[-2:], address) for source, _, address, _ in tried(rows, objects)] == [
        ("aa", "10.1.1.2"),
        ("bb", "10.1.0.2"),
    ]


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        ({"service": "star"}, {}, ("10.152.183.9", 80)),
        ({"service": "star"}, {"protocol": "UDP"}, ("10.152.183.9", 53)),
        ({"service": "two"}, {"port": 81}, ("10.152.183.8", 81)),
        ({"address": "192.0.2.1"}, {"port": 443}, ("192.0.2.1", 443)),
        ({"node": "n2"}, {"port": 22}, ("172.30.1.21", 22)),
        ({"pod": "ship"}, {"protocol": "ICMP"}, ("10.1.1.9", 0)),
    ],
)
def test_destinations(objects, target, values, expected):
    (found,) = tried([row({"pod": "star-5f6d-aa"}, target, **values)], objects)
    assert found[2:] == expected


@pytest.mark.parametrize(
    ("source", "target", "values", "said"),
    [
        (
            {"pod": "nobody"},
            {"pod": "ship"},
            {"port": 1},
            "row 1: there is no pod nobody in namespace default",
        ),
        (
            {"pod": "late"},
            {"pod": "ship"},
            {"port": 1},
            "no pod late runs in namespace default: late is Pending",
        ),
        ({"pod": "old"}, {"pod": "ship"}, {"port": 1}, "old is being deleted"),
        ({"selector": {"app": "x"}}, {"pod": "ship"}, {"port": 1}, "no pod app=x in"),
        ({"pod": "ship"}, {"deployment": "x"}, {"port": 1}, "no pod of deployment x in"),
        ({"pod": "ship"}, {"service": "x"}, {}, "there is no service default/x"),
        ({"pod": "ship"}, {"service": "headless"}, {}, "has no address of its own"),
        ({"pod": "ship"}, {"service": "two"}, {}, "one must be named; TCP ports: 80, 81"),
        ({"pod": "ship"}, {"service": "star"}, {"port": 81}, "has no port 81; TCP ports: 80"),
        ({"pod": "ship"}, {"service": "star"}, {"protocol": "ICMP"}, "no answer to ICMP"),
        ({"pod": "ship"}, {"node": "n9"}, {"port": 22}, "there is no node n9"),
        ({"pod": "ship"}, {"address": "192.0.2.1"}, {}, "TCP needs a port"),
        ({"node": "n2"}, {"pod": "ship"}, {"command": ["true"]}, "a command runs in a pod"),
        ({"pod": "nobody"}, {"pod": "ship"}, {"port": 1, "name": "who"}, r"row 1 (who): there is no pod"),
    ],
)
def test_a_row_that_tests_nothing_is_refused(objects, source, target, values, said):
    with pytest.raises(PodwireError) as caught:
        probes([row(source, target, **values)], objects)
    assert said in str(caught.value)


def test_pods_of_the_host_have_no_namespace_of_their_own(objects):
    (found,) = probes([row({"pod": "agent"}, {"pod": "ship"}, port=80)], objects)
    assert not found.source.own_network


def test_what_exit_statuses_mean(objects):
    (found,) = probes(
        [
            row(
                {"pod": "ship"},
                {"service": "star"},
                command=["curl"],
                denied_status=[28, 1],
                refused_status=[7],
            )
        ],
        objects,
    )
    assert found.statuses == {28: "denied", 1: "denied", 7: "refused"}


def test_a_plan_survives_the_way_to_another_node(objects):
    rows = [
        row({"selector": {"app": "star"}}, {"service": "star"}, name="n", denied_status=[28]),
        row({"node": "n2"}, {"pod": "ship"}, protocol="UDP", port=53, payload="x"),
    ]
    found = probes(rows, objects)
    assert [probe.number for probe in found] == [0, 1, 2]
    assert [from_dict(json.loads(json.dumps(probe.to_dict()))) for probe in found] == found
    with pytest.raises(PodwireError, match="no probe that a plan has made"):
        from_dict({"name": "x"})
