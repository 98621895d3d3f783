"""Settings are checked before anything happens."""

from __future__ import annotations

import json

import pytest

from podwire.datapath import DatapathConfig, DatapathError, ServiceSettings


def test_constants_are_what_the_programs_expect():
    config = DatapathConfig(node_ip="192.0.2.1", mtu=1450, masquerade=False, host_mac="02:00:00:00:00:01")
    constants = config.constants("legacy")
    assert constants["cfg_node_ip4"] == 0xC0000201
    assert constants["cfg_gateway_ip4"] == 0xA9FE0101
    assert constants["cfg_host_mac"] == bytes.fromhex("020000000001")
    assert (constants["cfg_mtu"], constants["cfg_masquerade"], constants["cfg_host_routing"]) == (1450, 0, 0)
    assert config.constants("ebpf")["cfg_host_routing"] == 1


def test_services_are_off_until_they_are_asked_for():
    assert DatapathConfig(node_ip="192.0.2.1").constants("ebpf")["cfg_services"] == 0
    services = ServiceSettings(
        enabled=True, node_port_min=20000, node_port_max=20100, maglev_size=65537, dsr=True
    )
    config = DatapathConfig(node_ip="192.0.2.1", services=services)
    constants = config.constants("ebpf", host_netns_cookie=7)
    assert (constants["cfg_services"], constants["cfg_dsr"], constants["cfg_host_netns_cookie"]) == (1, 1, 7)
    assert (constants["cfg_node_port_min"], constants["cfg_node_port_max"]) == (20000, 20100)
    assert constants["cfg_maglev_size"] == 65537
    assert config.inner_value_sizes() == {"podwire_maglev": 131074}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("enabled", "yes", "services.enabled: 'yes' is not true or false"),
        ("node_port_min", 0, "services.node_port_min: 0 is not a number from 1 to 65535"),
        ("node_port_max", 100, "services.node_port_max: 100 is not a number from 30000 to 65535"),
        ("maglev_size", 16384, "services.maglev_size: 16384 is not a prime"),
        ("maglev_size", 7, "services.maglev_size: 7 is not a number from 251"),
        ("dsr", 1, "services.dsr"),
    ],
)
def test_a_bad_setting_of_services_is_named(field, value, message):
    with pytest.raises(DatapathError, match=message):
        ServiceSettings(**{field: value})


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
    config = DatapathConfig(
        node_ip="192.0.2.1",
        map_entries={"podwire_ct4": 4096},
        host_routing="legacy",
        services=ServiceSettings(enabled=True, maglev_size=251),
    )
    assert DatapathConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_settings_of_a_newer_version_are_refused_by_name():
    with pytest.raises(DatapathError, match="unknown datapath settings: vxlan"):
        DatapathConfig.from_dict({"node_ip": "192.0.2.1", "vxlan": True})
    with pytest.raises(DatapathError, match="unknown settings of services: ipv6"):
        DatapathConfig.from_dict({"node_ip": "192.0.2.1", "services": {"ipv6": True}})


def test_settings_of_an_older_version_have_services_off():
    assert not DatapathConfig.from_dict({"node_ip": "192.0.2.1"}).services.enabled
