"""The libbpf binding against a real kernel: objects, maps, programs, ring buffer, attachments."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.bpf import (
    BpfError,
    BpfObject,
    Link,
    LoadError,
    Map,
    MapType,
    Program,
    RingBuffer,
    SocketHook,
    TcHook,
    Tcx,
    Update,
    possible_cpus,
    probe,
    tc,
)
from podwire.bpf.programs import SCHED_CLS, load_instructions

from .conftest import ip

PACKET = bytes(60)
ADDRESS = 0x0A000001
KEY = {"address": ADDRESS, "port": 80, "proto": 6}


@pytest.fixture
def sample(build_objects) -> Iterator[BpfObject]:
    """The sample object, open but not loaded."""
    with BpfObject.open(build_objects() / "sample.bpf.o") as opened:
        yield opened


@pytest.fixture
def loaded(sample: BpfObject) -> BpfObject:
    sample.set_constants({"cfg_address": ADDRESS, "cfg_mac": b"abcdef", "cfg_verdict": 3})
    sample.load()
    return sample


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    from podwire.datapath import bpffs

    bpffs.mount(tmp_path / "bpf")
    yield tmp_path / "bpf"
    bpffs.unmount(tmp_path / "bpf")


def test_constants_are_set_by_name_and_reach_the_program(loaded):
    assert loaded.get_constant("cfg_address") == ADDRESS
    run = loaded.program("sample_count").test_run(PACKET, ctx={"ifindex": 1, "mark": 9})
    assert (run.retval, run.ctx["mark"], run.data) == (3, 3, PACKET)
    assert loaded.map("sample_hash").get(KEY)["mac"] == b"abcdef"


def test_an_unknown_constant_is_refused_with_those_that_exist(sample):
    with pytest.raises(BpfError, match=r"constant cfg_typo of sample.*cfg_address"):
        sample.set_constants({"cfg_typo": 1})


def test_declarations_tell_layout_and_size(sample):
    declared = sample.declarations()
    assert declared.keys() == {
        "sample_hash",
        "sample_lpm",
        "sample_counters",
        "sample_array",
        "sample_events",
        "sample_tables",
    }
    found = declared["sample_hash"]
    assert (found.type_name, found.key_size, found.max_entries) == ("lru_hash", 8, 1024)
    assert found.key_fields == ("address", "port", "proto", "pad")
    sample.set_max_entries("sample_hash", 2048)
    assert sample.declarations()["sample_hash"].max_entries == 2048


def test_test_runs_repeat_and_change_maps(loaded):
    program = loaded.program("sample_count")
    program.test_run(PACKET, repeat=10)
    entry = loaded.map("sample_hash").get(KEY)
    assert (entry["packets"], entry["peer4"]) == (10, ADDRESS)
    assert sum(loaded.map("sample_counters").get(1)) == 10
    with pytest.raises(BpfError, match=r"test-run program sample_count.*EINVAL"):
        program.test_run(b"too short")


def test_programs_describe_themselves(loaded):
    info = loaded.program("sample_count").info
    assert (info.name, info.type, len(info.tag)) == ("sample_count", SCHED_CLS, 16)
    assert loaded.map("sample_hash").info.id in info.map_ids
    with Program.by_id(info.id) as same:
        assert same.info.tag == info.tag
    with pytest.raises(BpfError, match="program nothing in sample"):
        loaded.program("nothing")


def test_hash_entries_come_and_go(loaded):
    entries = loaded.map("sample_hash")
    assert entries.get(KEY) is None
    entries.set(KEY, {"ifindex": 7})
    assert entries.get(KEY)["ifindex"] == 7
    with pytest.raises(BpfError, match="EEXIST"):
        entries.set(KEY, {"ifindex": 8}, Update.NOEXIST)
    assert (entries.delete(KEY), entries.delete(KEY)) == (True, False)
    with pytest.raises(BpfError, match="ENOENT"):
        entries.set(KEY, {"ifindex": 8}, Update.EXIST)


@pytest.mark.parametrize("count", [1, 17, 700])
def test_batches_write_read_and_clear_everything(loaded, count):
    entries = loaded.map("sample_hash")
    wanted = {index: index * 3 for index in range(count)}
    assert entries.set_many(({"address": k}, {"ifindex": v}) for k, v in wanted.items()) == count
    assert {key["address"]: value["ifindex"] for key, value in entries.items()} == wanted
    assert len(entries) == count
    assert {key["address"] for key in list(entries.keys())} == wanted.keys()
    assert entries.delete_many([{"address": 0}, {"address": 999_999}]) == 1
    assert entries.clear() == count - 1
    assert list(entries.items()) == []


def test_longest_prefix_wins_and_prefixes_can_be_listed(loaded):
    prefixes = loaded.map("sample_lpm")
    prefixes.set({"prefix_len": 8, "address": 0x0A000000}, {"ifindex": 8})
    prefixes.set({"prefix_len": 24, "address": 0x0A010200}, {"ifindex": 24})
    assert prefixes.get({"prefix_len": 32, "address": 0x0A010203})["ifindex"] == 24
    assert prefixes.get({"prefix_len": 32, "address": 0x0A020203})["ifindex"] == 8
    assert prefixes.get({"prefix_len": 32, "address": 0x0B000001}) is None
    assert {(key["prefix_len"], value["ifindex"]) for key, value in prefixes.items()} == {(8, 8), (24, 24)}


def test_arrays_are_always_full(loaded):
    array = loaded.map("sample_array")
    array.set(3, 42)
    assert len(array) == 8
    assert [value for _, value in array.items()] == [0, 0, 0, 42, 0, 0, 0, 0]
    with pytest.raises(BpfError, match="E2BIG"):
        array.set(8, 1)


def test_per_cpu_values_have_one_item_per_cpu(loaded):
    counters = loaded.map("sample_counters")
    counters.set(5, 7)
    assert counters.get(5) == [7] * possible_cpus()
    counters.set(5, list(range(possible_cpus())))
    assert dict(counters.items())[5] == list(range(possible_cpus()))


def test_a_full_map_says_so(loaded):
    counters = loaded.map("sample_counters")
    with pytest.raises(BpfError, match=r"entry \d+ of map sample_counters.*E2BIG.*all 16 entries are in use"):
        for index in range(100):
            counters.set(index, 1)


def test_ring_buffer_records_arrive_in_order(loaded):
    seen = []
    with RingBuffer(loaded.map("sample_events"), seen.append) as ring:
        assert ring.fileno() > 0
        loaded.program("sample_count").test_run(PACKET, repeat=3)
        assert ring.poll(0.5) == 3
        assert ring.consume() == 0
    assert seen == [b"\x0a\0\0\x01\0\x50\x06\0"] * 3


def test_a_failing_consumer_is_heard(loaded):
    def fail(record: bytes) -> None:
        raise ValueError("no")

    with RingBuffer(loaded.map("sample_events"), fail) as ring:
        loaded.program("sample_count").test_run(PACKET)
        with pytest.raises(ValueError, match="no"):
            ring.consume()


def test_pins_outlive_the_object_and_carry_type_information(build_objects, bpffs):
    with BpfObject.open(build_objects() / "sample.bpf.o") as first:
        first.load()
        first.map("sample_hash").pin(bpffs / "hash")
        first.program("sample_count").pin(bpffs / "program")
        with pytest.raises(BpfError, match=r"pin sample_hash at .*EEXIST"):
            first.map("sample_hash").pin(bpffs / "hash")
    with Map.pinned(bpffs / "hash") as pinned, Program.pinned(bpffs / "program") as program:
        pinned.set(KEY, {"ifindex": 1})
        assert program.test_run(PACKET, ctx={"mark": 1}).ctx["mark"] == 7
        assert pinned.key.fields == ("address", "port", "proto", "pad")
    with pytest.raises(BpfError, match=r"open .*/nothing.*ENOENT"):
        Map.pinned(bpffs / "nothing")


def test_objects_share_a_map_and_keep_their_own_declaration(build_objects, loaded):
    with BpfObject.open(build_objects() / "sample.bpf.o") as second:
        before = second.declarations()["sample_hash"]
        second.reuse_map("sample_hash", loaded.map("sample_hash"))
        assert second.declarations()["sample_hash"] == before
        second.load()
        second.program("sample_count").test_run(PACKET)
        assert second.map("sample_hash").info.id == loaded.map("sample_hash").info.id


def test_a_broken_object_shows_the_verifiers_reasons(build_objects):
    with BpfObject.open(build_objects("BROKEN") / "host.bpf.o") as broken, pytest.raises(LoadError) as caught:
        broken.load()
    assert caught.value.errno == errno.EACCES
    assert "invalid mem access" in str(caught.value)
    assert "BEGIN PROG LOAD LOG" in caught.value.log


def test_what_is_no_object_is_refused(tmp_path):
    garbage = tmp_path / "garbage.o"
    garbage.write_bytes(b"not an ELF file")
    with pytest.raises(LoadError, match=r"garbage\.o"):
        BpfObject.open(garbage)
    with pytest.raises(LoadError, match="ENOENT"):
        BpfObject.open(tmp_path / "missing.o")


def test_the_kernel_is_asked_not_guessed():
    assert probe.has_program_type()
    assert probe.has_helper("redirect_peer")
    assert probe.has_tcx() is not bool(os.environ.get("PODWIRE_TEST_NO_TCX"))


def verdict(value: int) -> Program:
    return load_instructions(SCHED_CLS, f"verdict_{abs(value)}", probe.return_constant(value))


def test_a_tcx_link_is_replaced_in_place_and_ends_with_its_device(devices, bpffs):
    index = socket.if_nametoindex("dev0")
    if "PODWIRE_TEST_NO_TCX" in os.environ:
        with verdict(0) as program, pytest.raises(BpfError, match=r"attach program verdict_0.*EINVAL"):
            Link.tcx(program, index, Tcx.INGRESS)
        return
    with verdict(0) as one, verdict(-1) as two, Link.tcx(one, index, Tcx.INGRESS) as link:
        assert (link.info.prog_id, link.info.ifindex, link.info.attach_type) == (one.id, index, Tcx.INGRESS)
        number = link.info.id
        link.update(two)
        assert (link.info.prog_id, link.info.id) == (two.id, number)
        link.pin(bpffs / "link")
        ip("link", "del", "dev0")
        with Link.pinned(bpffs / "link") as again:
            assert again.info.ifindex == 0
            again.detach()
        with pytest.raises(BpfError, match="EN"):
            link.update(one)
        with pytest.raises(BpfError, match="to ingress of device 4711"):
            Link.tcx(one, 4711, Tcx.INGRESS)


def test_a_tc_filter_is_replaced_in_place(devices):
    index = socket.if_nametoindex("dev0")
    with verdict(0) as one, verdict(-1) as two:
        assert tc.query(index, TcHook.INGRESS) is None
        assert tc.attach(one, index, TcHook.INGRESS) is True
        assert tc.attach(two, index, TcHook.INGRESS) is False
        assert tc.query(index, TcHook.INGRESS) == two.id
        assert tc.query(index, TcHook.EGRESS) is None
        assert (tc.detach(index, TcHook.INGRESS), tc.detach(index, TcHook.INGRESS)) == (True, False)
        tc.remove_qdisc(index)
        tc.remove_qdisc(index)
        assert tc.query(4711, TcHook.INGRESS) is None


def test_a_map_of_maps_holds_tables_of_the_size_that_was_set(sample):
    sample.set_inner_value_size("sample_tables", 32)
    sample.load()
    tables = sample.map("sample_tables")
    with Map.create(MapType.ARRAY, "sample_table", key_size=4, value_size=32, max_entries=1) as table:
        table.set(b"\0" * 4, bytes(range(32)))
        tables.set_inner(7, table)
        number = table.info.id
    assert dict(tables.items()) == {7: number}
    with Map.by_id(number) as kept:
        assert kept.get(b"\0" * 4) == bytes(range(32))
    with (
        Map.create(MapType.ARRAY, "sample_table", key_size=4, value_size=16, max_entries=1) as other,
        pytest.raises(BpfError) as caught,
    ):
        tables.set_inner(8, other)
    assert caught.value.errno == errno.EINVAL
    assert tables.delete(7)


def test_the_inner_maps_of_a_plain_map_cannot_be_resized(sample):
    with pytest.raises(BpfError, match="it is no map of maps"):
        sample.set_inner_value_size("sample_array", 32)


def test_a_program_attached_to_a_control_group_meets_the_sockets_of_its_members(loaded, bpffs, cgroup):
    program = loaded.program("sample_connect4")
    pin = bpffs / "link"
    with Link.cgroup(program, cgroup.path, SocketHook.CONNECT4) as link:
        info = link.info
        assert (info.prog_id, info.cgroup_id) == (program.id, cgroup.path.stat().st_ino)
        assert (info.attach_type, info.ifindex) == (SocketHook.CONNECT4, 0)
        link.pin(pin)
    assert cgroup.connect() == errno.EPERM
    assert loaded.map("sample_array").get(4) == 1
    with Link.pinned(pin) as link:
        link.update(program)
        link.detach()
        pin.unlink()
        assert link.info.cgroup_id == 0
    assert cgroup.connect() == errno.ECONNREFUSED


def test_attaching_to_what_is_no_control_group_says_so(loaded, tmp_path):
    program = loaded.program("sample_connect4")
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BpfError, match=f"of control group {directory}") as caught:
            Link.cgroup(program, directory, SocketHook.CONNECT4)
        assert caught.value.errno in (errno.EBADF, errno.ENOENT)
