"""The filters that find colliding addresses before a cluster is made."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.podwire.ebpf.plugins.filter import networks


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("10.1.0.0/16", "", id="a network"),
        pytest.param("10.1.2.3/16", "host bits set", id="an address in a network"),
        pytest.param("10.1.0.0/40", "does not appear to be", id="prefix too long"),
        pytest.param("pods", "does not appear to be", id="no address at all"),
        pytest.param("fd00::/64", "not IPv4", id="the other family"),
    ],
)
def test_cidr_problem(value: str, expected: str) -> None:
    problem = networks.cidr_problem(value)
    assert (expected in problem) if expected else problem == ""


def test_overlaps_names_both_sides_once() -> None:
    found = networks.overlaps(
        {"pods": "10.1.0.0/16", "services": "10.152.183.0/24", "eth0": "10.1.7.0/24", "x": "?"}
    )
    assert found == ["pods (10.1.0.0/16) overlaps eth0 (10.1.7.0/24)"]


def test_node_networks_leaves_pod_network_devices_out() -> None:
    facts = {
        "interfaces": ["lo", "eth0", "br-lan", "cni0", "lxc0a1b", "down0"],
        "lo": {"ipv4": {"address": "127.0.0.1", "netmask": "255.0.0.0"}},
        "eth0": {
            "ipv4": {"address": "10.0.2.15", "netmask": "255.255.255.0"},
            "ipv4_secondaries": [{"address": "192.168.7.2", "netmask": "255.255.0.0"}],
        },
        "br_lan": {"ipv4": {"address": "172.20.0.1", "prefix": "20"}},
        "cni0": {"ipv4": {"address": "10.1.1.1", "netmask": "255.255.255.0"}},
        "down0": {"active": False},
    }
    assert set(networks.node_networks(facts).values()) == {"10.0.2.0/24", "192.168.0.0/16", "172.20.0.0/20"}


FACTS = {
    "hostname": "w1",
    "interfaces": ["eth0", "br-lan"],
    "eth0": {"ipv4": {"address": "10.0.2.15", "netmask": "255.255.255.0"}},
    "br_lan": {"ipv4": {"address": "172.20.0.1"}, "ipv4_secondaries": [{"address": "172.20.0.2"}]},
}


def test_device_of_finds_secondary_addresses_and_odd_names() -> None:
    assert networks.device_of(FACTS, " 172.20.0.2\n") == "br-lan"


def test_device_of_names_what_the_node_has_and_the_variable_to_set() -> None:
    with pytest.raises(AnsibleFilterError, match=r"10\.0\.2\.15, 172\.20\.0\.1.*podwire_node_ip"):
        networks.device_of(FACTS, "10.9.9.9")
