"""Map entries as people read them."""

from __future__ import annotations

from podwire.bpf.btf import Btf
from podwire.datapath.present import Names, entry, flag_names, names_for, names_of, summed
from tests.unit.bpf.build_btf import BtfWriter

CT = Names(enums={"delivery": {0: "stack", 1: "peer"}}, flags={"flags": {1: "via-stack", 2: "masquerade"}})


def test_addresses_macs_names_and_ages_are_readable():
    key = {
        "source_address": 0x0A000001,
        "destination_address": 0x08080808,
        "source_port": 1234,
        "protocol": 6,
    }
    value = {
        "mac": b"\x02\0\0\0\0\x01",
        "delivery": 1,
        "flags": 3,
        "last_seen": 5_000_000_000,
        "decided": 0,
        "pad": 0,
    }
    assert entry(key, value, CT, now=7_500_000_000) == {
        "source_address": "10.0.0.1", "destination_address": "8.8.8.8", "source_port": 1234,
        "protocol": "TCP", "mac": "02:00:00:00:00:01", "delivery": "peer",
        "flags": ["via-stack", "masquerade"], "last_seen_ago": 2.5, "decided_ago": None,
    }  # fmt: skip


def test_a_struct_inside_a_value_becomes_fields():
    value = {"rewrite": {"destination_address": 0x0A000001, "destination_port": 0}}
    assert entry({}, value, Names({}, {}), 0) == {
        "rewrite_destination_address": "10.0.0.1",
        "rewrite_destination_port": 0,
    }
    empty = {"rewrite": {"destination_address": 0, "destination_port": 0}}
    assert set(entry({}, empty, Names({}, {}), 0).values()) == {None}


def test_unknown_numbers_are_shown_not_hidden():
    assert entry({"protocol": 200}, {"delivery": 9}, CT, 0) == {"protocol": "200", "delivery": "9"}
    assert flag_names(0b101, {1: "one"}) == ["one", "0x4"]


def test_a_value_with_the_name_of_a_key_field_keeps_both():
    assert entry({"address": 1}, {"address": 2}, Names({}, {}), 0) == {
        "address": "0.0.0.1",
        "to_address": "0.0.0.2",
    }


def test_padding_is_not_shown_where_key_and_value_have_some():
    shown = entry({"address": 1, "pad": 0}, {"port": 80, "pad": 0}, Names({}, {}), 0)
    assert shown == {"address": "0.0.0.1", "port": 80}


def test_scalar_maps_have_key_and_value():
    assert entry(3, 4, Names({}, {}), 0) == {"key": 3, "value": 4}


def test_values_of_all_cpus_are_added():
    assert summed([{"packets": 1, "bytes": 10}, {"packets": 2, "bytes": 20}]) == {"packets": 3, "bytes": 30}
    assert summed([1, 2]) == 3


def test_names_come_from_the_type_information():
    writer = BtfWriter()
    writer.enum("podwire_ct_flags", PODWIRE_CT_VIA_STACK=1)
    btf = Btf(writer.finish())
    assert names_of(btf, "podwire_ct_flags", "PODWIRE_CT_") == {1: "via-stack"}
    assert names_of(btf, "no_such_enum", "") == {}
    assert names_for("podwire_ct4", btf).flags == {"flags": {1: "via-stack"}}
    assert names_for("podwire_unknown", None) == Names({}, {})
