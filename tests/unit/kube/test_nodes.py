"""Node objects and watch events, as the API sends them."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.agent.model import NodeInfo
from podwire.kube.nodes import node_from_object
from podwire.kube.source import NodeTable, nodes_from_yaml


def node(name: str = "n1", **parts: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "metadata": {"name": name, "uid": "u1", "resourceVersion": "5"},
        "spec": {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24"]},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": "192.0.2.1"},
            ]
        },
    }
    return {**value, **parts}


N1 = NodeInfo("n1", "10.1.1.0/24", ("192.0.2.1",), None, "u1")


def test_a_node_is_read() -> None:
    assert node_from_object(node()) == N1


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, None),
        ({"podCIDR": ""}, None),
        ({"podCIDR": "nonsense"}, None),
        ({"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.1.1.0/24"]}, "10.1.1.0/24"),
        ({"podCIDR": "fd00::/64"}, None),
        ({"podCIDR": "10.1.2.0/24"}, "10.1.2.0/24"),  # as old API servers have it
    ],
)
def test_the_ipv4_podcidr_is_chosen(spec: dict[str, Any], expected: str | None) -> None:
    assert node_from_object(node(spec=spec)).pod_cidr == expected


def test_internal_addresses_come_first_and_ipv6_is_left_out() -> None:
    addresses = [
        {"type": "ExternalIP", "address": "198.51.100.7"},
        {"type": "InternalIP", "address": "fd00::1"},
        {"type": "InternalIP", "address": "192.0.2.9"},
        {"type": "Weird", "address": "192.0.2.10"},
        {"type": "InternalIP"},
    ]
    assert node_from_object(node(status={"addresses": addresses})).addresses == ("192.0.2.9", "198.51.100.7")


def test_zone_and_host_name_are_labels() -> None:
    labels = {"topology.kubernetes.io/zone": "z1", "kubernetes.io/hostname": "h1"}
    found = node_from_object(node(metadata={"name": "n1", "labels": labels}))
    assert (found.zone, found.hostname) == ("z1", "h1")


@pytest.mark.parametrize(("text", "expected"), [("10.1.1.1", "10.1.1.1"), ("x", None), (None, None)])
def test_the_health_address_is_checked(text: str | None, expected: str | None) -> None:
    metadata = {"name": "n1", "annotations": {"podwire.io/health-address": text}}
    assert node_from_object(node(metadata=metadata)).health_address == expected


def test_empty_object_is_harmless() -> None:
    assert node_from_object({}).name == ""
    assert node_from_object({"metadata": None, "spec": None, "status": None}).addresses == ()


def test_table_is_shown_when_a_list_is_complete() -> None:
    table = NodeTable()
    assert not table.apply([("n1", N1)], False)
    assert table.nodes() == ()
    assert table.apply([("n2", NodeInfo("n2"))], True)
    assert table.nodes() == (N1, NodeInfo("n2"))
    assert not table.apply([("n1", N1)], True)  # a heartbeat changes nothing that is needed
    assert table.apply([("n1", None)], True)
    assert not table.apply([("n1", None)], True)
    assert table.nodes() == (NodeInfo("n2"),)


def test_an_empty_first_list_is_news() -> None:
    table = NodeTable()
    assert table.apply([], True)
    assert not table.apply([], True)


def test_node_file() -> None:
    text = (
        "- {name: n1, podCIDR: 10.1.1.0/24, addresses: [192.0.2.1], healthAddress: 10.1.1.1, zone: z1}\n"
        "- name: n0\n"
    )
    assert nodes_from_yaml(text) == (
        NodeInfo("n0", hostname="n0"),
        NodeInfo("n1", "10.1.1.0/24", ("192.0.2.1",), "10.1.1.1", zone="z1", hostname="n1"),
    )


@pytest.mark.parametrize("text", ["{}", "- 3", "- podCIDR: 10.0.0.0/24"])
def test_wrong_node_files_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="node"):
        nodes_from_yaml(text)
