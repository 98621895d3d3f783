"""Settings are checked before anything happens."""

from __future__ import annotations

import json

import pytest

from podwire.datapath import DatapathConfig, DatapathError


def test_constants_are_what_the_programs_expect():
    config = DatapathConfig(node_ip="192.0.2.1", mtu=1450, masquerade=False, host_mac="02:00:00:00:00:01")
    constants = config.constants("legacy")
    assert constants["cfg_node_ip4"] == 0xC0000201
    assert constants["cfg_gateway_ip4"] == 0xA9FE0101
    assert constants["cfg_host_mac"] == bytes.fromhex("020000000001")
    assert (constants["cfg_mtu"], constants["cfg_masquerade"], constants["cfg_host_routing"]) == (1450, 0, 0)
    assert config.constants("ebpf")["cfg_host_routing"] == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("node_ip", "10.0.0", "node_ip: Expected 4 octets"),
        ("node_ip", "fd00::1", "node_ip"),
        ("gateway_ip", "", "gateway_ip"),
        ("host_routing", "fast", "host_routing: 'fast' is not one of ebpf, legacy"),
        ("attach", "xdp", "attach: 'xdp' is not one of auto, tcx, clsact"),
        ("host_mac", "02:00", "host_mac"),
        ("mtu", 100, "mtu: 100 is not a number from 576 to 65535"),
        ("mtu", "1500", "mtu"),
        ("nat_port_min", 80, "nat_port_min"),
        ("nat_port_max", 50000, "nat_port_max: 50000 is not a number from 61000"),
        ("event_rate", -1, "event_rate"),
        ("map_entries", {"podwire_ct4": 0}, r"map_entries\[podwire_ct4\]"),
    ],
)
def test_a_bad_setting_is_named(field, value, message):
    with pytest.raises(DatapathError, match=message):
        DatapathConfig(**{"node_ip": "192.0.2.1", field: value})


def test_settings_survive_the_way_to_disk_and_back():
    config = DatapathConfig(node_ip="192.0.2.1", map_entries={"podwire_ct4": 4096}, host_routing="legacy")
    assert DatapathConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_settings_of_a_newer_version_are_refused_by_name():
    with pytest.raises(DatapathError, match="unknown datapath settings: vxlan"):
        DatapathConfig.from_dict({"node_ip": "192.0.2.1", "vxlan": True})
