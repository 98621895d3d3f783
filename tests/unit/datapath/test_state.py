"""The state file: whole or not there."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from podwire.datapath import DatapathConfig, DatapathError
from podwire.datapath.state import State, read, write

STATE = State(
    objects="/opt/podwire/bpf/abc", config=DatapathConfig(node_ip="192.0.2.1"), devices=("eth0",), digest="d",
    attach="tcx", host_routing="ebpf", reason="", programs={"podwire_from_pod": 7}, qdiscs=(3,), mounted=True,
    sysctls=("net/netfilter/nf_conntrack_tcp_be_liberal",),
)  # fmt: skip


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "deep" / "datapath.json"
    write(path, STATE)
    assert read(path) == STATE
    assert [entry.name for entry in path.parent.iterdir()] == ["datapath.json"]


def test_a_file_from_before_settings_were_remembered_is_read(tmp_path):
    path = tmp_path / "datapath.json"
    values = json.loads(STATE.to_json())
    del values["sysctls"]
    path.write_text(json.dumps(values))
    assert read(path) == replace(STATE, sysctls=())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 99}', '{"version": 1}', '{"version": 1, "config": {}}']
)
def test_a_file_that_cannot_be_understood_counts_as_none(tmp_path, text):
    path = tmp_path / "datapath.json"
    path.write_text(text)
    assert read(path) is None


def test_no_file_is_no_state(tmp_path):
    assert read(tmp_path / "datapath.json") is None


def test_a_full_disk_is_named_and_leaves_the_old_state(tmp_path):
    path = tmp_path / "datapath.json"
    write(path, STATE)
    (tmp_path / ".datapath.json.new").symlink_to("/dev/full")
    with pytest.raises(DatapathError, match=r"cannot write .*datapath\.json: No space left"):
        write(path, STATE)
    assert read(path) == STATE
