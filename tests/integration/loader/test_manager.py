"""The datapath manager against a real kernel: load, attach, replace, repair, remove."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from podwire.bpf import BpfObject, Link, Program
from podwire.datapath import DatapathError, NotInstalled, manager, state
from podwire.datapath.hooks import HOOKS

from .conftest import Crash, ip

DEVICE = {"from_netdev", "to_netdev"}
POD = {"from_pod", "to_pod"}


def index(name: str) -> int:
    return socket.if_nametoindex(name)


def counts(datapath, hook=3):
    return datapath.map("podwire_counts").get(hook)


def send(device: str, packets: int = 1) -> None:
    """Raw frames into the peer, so that they arrive at the device's ingress hook."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((f"{device}p", 0))
        for _ in range(packets):
            raw.send(b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + b"x" * 50)


def wait_for(predicate, seconds=2.0):
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def test_apply_loads_attaches_and_a_second_run_changes_nothing(
    datapath, devices, config, build_objects, kind
):
    first = datapath.apply(config, build_objects(), devices)
    assert first.changed
    assert first.before == {"installed": False}
    assert first.after["attach"] == kind
    assert datapath.attached() == {index("dev0"): DEVICE}
    before = counts(datapath)["packets"]
    send("dev0", 3)
    wait_for(lambda: counts(datapath)["packets"] >= before + 3)

    second = datapath.apply(config, build_objects(), devices)
    assert (second.changed, second.steps) == (False, [])
    assert second.before == second.after == first.after


def test_a_dry_run_tells_everything_and_does_nothing(datapath, devices, config, build_objects):
    told = datapath.apply(config, build_objects(), devices, dry_run=True)
    assert told.changed
    assert not datapath.pin_root.exists()
    assert not datapath.state_file.exists()
    done = datapath.apply(config, build_objects(), devices)
    assert told.steps == done.steps
    assert told.after == done.after
    assert not datapath.apply(config, build_objects(), devices, dry_run=True).changed


def test_status_tells_programs_maps_and_devices(datapath, devices, config, build_objects, kind):
    datapath.apply(config, build_objects(), devices)
    datapath.attach_endpoint(index("pod0"))
    datapath.map("podwire_endpoints4").set({"address": 0x0A000001}, {"ifindex": 7})
    status = datapath.status(count_entries=True)
    assert status.installed
    assert status.problems == []
    assert (status.mode, status.requested, status.reason, status.attach) == ("ebpf", "ebpf", "", kind)
    assert {p.name: p.attached for p in status.programs} == {
        "podwire_from_pod": [index("pod0")],
        "podwire_to_pod": [index("pod0")],
        "podwire_from_netdev": [index("dev0")],
        "podwire_to_netdev": [index("dev0")],
    }
    assert [(m.name, m.type, m.entries, m.max_entries) for m in status.maps] == [
        ("podwire_counts", "array", 8, 8),
        ("podwire_endpoints4", "hash", 1, 64),
    ]
    assert status.devices == [{"name": "dev0", "ifindex": index("dev0"), "hooks": sorted(DEVICE)}]
    assert status.endpoints == [index("pod0")]
    json.dumps(status.to_dict())


def test_attaching_an_endpoint_loads_nothing_and_is_repeatable(
    datapath, devices, config, build_objects, monkeypatch
):
    """The verifier's time must never be part of a CNI ADD."""
    datapath.apply(config, build_objects(), devices)
    monkeypatch.setattr(BpfObject, "open", lambda path: pytest.fail(f"{path} was opened"))
    for _ in range(2):
        datapath.attach_endpoint(index("pod0"))
    assert datapath.attached()[index("pod0")] == POD
    datapath.detach_endpoint(index("pod0"))
    assert index("pod0") not in datapath.attached()
    datapath.detach_endpoint(index("pod0"))
    datapath.detach_endpoint(999999)


def test_replacing_programs_keeps_maps_and_switches_every_attachment(
    datapath, devices, config, build_objects
):
    datapath.apply(config, build_objects(), devices)
    datapath.attach_endpoint(index("pod0"))
    datapath.map("podwire_endpoints4").set({"address": 1}, {"ifindex": 7, "slot": 3})
    old = datapath.pins.program_ids()

    changes = datapath.apply(config, build_objects("GENERATION=2"), devices)
    assert "replace from_pod of pod0" in changes.steps
    new = datapath.pins.program_ids()
    assert not set(old.values()) & set(new.values())
    assert datapath.status().problems == []
    assert datapath.map("podwire_endpoints4").get({"address": 1}) == {"ifindex": 7, "slot": 3}
    send("pod0")
    wait_for(lambda: counts(datapath, 1)["generation"] == 2)
    assert not datapath.apply(config, build_objects("GENERATION=2"), devices).changed


def test_no_packet_is_missed_while_programs_are_replaced(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    before = counts(datapath)["packets"]
    sender = subprocess.Popen(
        ["python3", "-c", _FLOOD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert sender.stdout.readline() == "started\n"
    for generation in range(2, 6):
        datapath.apply(config, build_objects(f"GENERATION={generation}"), devices)
    sent = int(sender.communicate("stop\n", timeout=20)[0])
    wait_for(lambda: counts(datapath)["packets"] - before >= sent)
    # Anything else on the wire (neighbour discovery) only adds to the count.
    assert sent > 100


_FLOOD = """
import select, socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("dev0p", 0))
print("started", flush=True)
sent = 0
while not select.select([sys.stdin], [], [], 0.0002)[0]:
    raw.send(b"\\xff" * 6 + b"\\x02" * 6 + b"\\x88\\xb5" + b"x" * 50)
    sent += 1
print(sent)
"""


def test_a_changed_map_layout_recreates_the_map_with_a_reason_and_keeps_its_entries(
    datapath, devices, config, build_objects
):
    datapath.apply(config, build_objects(), devices)
    old = datapath.map("podwire_endpoints4")
    old.set({"address": 0x0A000001}, {"ifindex": 7, "slot": 3})

    changes = datapath.apply(config, build_objects("WIDE"), devices)
    assert any("recreate map podwire_endpoints4: layout changes" in step for step in changes.steps)
    assert any("1 entries kept" in note for note in changes.notes)
    new = datapath.map("podwire_endpoints4")
    assert new.info.id != old.info.id
    assert new.get({"address": 0x0A000001}) == {"ifindex": 7, "slot": 3, "extra": 0}
    assert "layout changes" in datapath.status().recreated_maps["podwire_endpoints4"]
    assert not list(datapath.pin_root.rglob("*-new"))

    back = datapath.apply(config, build_objects(), devices)
    assert any("recreate map" in step for step in back.steps)
    assert datapath.map("podwire_endpoints4").get({"address": 0x0A000001}) == {"ifindex": 7, "slot": 3}


def test_a_changed_map_size_is_applied(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    larger = replace(config, map_entries={"podwire_endpoints4": 128})
    changes = datapath.apply(larger, build_objects(), devices)
    assert any("size changes from 64 to 128 entries" in step for step in changes.steps)
    assert datapath.map("podwire_endpoints4").info.max_entries == 128
    assert not datapath.apply(larger, build_objects(), devices).changed


def test_an_unknown_map_in_the_settings_is_named(datapath, devices, config, build_objects):
    with pytest.raises(DatapathError, match="no maps named podwire_typo"):
        datapath.apply(replace(config, map_entries={"podwire_typo": 1}), build_objects(), devices)


def test_a_program_the_verifier_refuses_changes_nothing_and_shows_why(
    datapath, devices, config, build_objects
):
    datapath.apply(config, build_objects(), devices)
    before, attached = datapath.pins.program_ids(), datapath.attached()
    with pytest.raises(DatapathError, match="invalid mem access") as caught:
        datapath.apply(config, build_objects("BROKEN"), devices)
    assert "What was in place is untouched" in str(caught.value)
    assert datapath.pins.program_ids() == before
    assert datapath.attached() == attached
    assert datapath.status().problems == []
    assert not list(datapath.pin_root.rglob("*-new"))


@pytest.mark.parametrize("call", range(1, 14))
def test_a_crash_at_any_step_is_repaired_by_the_next_run(
    datapath, devices, config, build_objects, monkeypatch, call
):
    """The n-th dangerous call dies; the next run must end as if nothing had happened."""
    datapath.apply(config, build_objects(), devices)
    datapath.attach_endpoint(index("pod0"))
    datapath.map("podwire_endpoints4").set({"address": 9}, {"ifindex": 7})
    crash = Crash(call)
    with monkeypatch.context() as patch:
        patch.setattr(Program, "pin", crash.before(Program.pin))
        patch.setattr(Link, "update", crash.before(Link.update))
        patch.setattr(Path, "rename", crash.before(Path.rename))
        patch.setattr(state, "write", crash.before(state.write))
        with pytest.raises(KeyboardInterrupt) if call <= _dangerous_calls(config) else _nothing():
            datapath.apply(config, build_objects("WIDE", "GENERATION=2"), devices)

    datapath.apply(config, build_objects("WIDE", "GENERATION=2"), devices)
    assert datapath.status().problems == []
    assert datapath.attached() == {index("dev0"): DEVICE, index("pod0"): POD}
    assert not list(datapath.pin_root.rglob("*-new"))
    assert datapath.map("podwire_endpoints4").get({"address": 9})["ifindex"] == 7
    send("pod0")
    wait_for(lambda: counts(datapath, 1)["generation"] == 2)
    assert not datapath.apply(config, build_objects("WIDE", "GENERATION=2"), devices).changed


def _dangerous_calls(config) -> int:
    """4 programs pinned, 4 links updated (tcx only), 1 map and 4 programs renamed, 1 state written."""
    return 14 if config.attach == "tcx" else 10


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_a_device_that_is_no_longer_listed_is_detached(datapath, devices, config, build_objects):
    ip("link", "add", "dev1", "type", "veth", "peer", "name", "dev1p")
    datapath.apply(config, build_objects(), ["dev0", "dev1"])
    assert datapath.attached().keys() == {index("dev0"), index("dev1")}
    changes = datapath.apply(config, build_objects(), ["dev0"])
    assert sorted(changes.steps) == ["detach from_netdev from dev1", "detach to_netdev from dev1"]
    assert datapath.attached() == {index("dev0"): DEVICE}


def test_a_missing_device_is_named_with_those_that_exist(datapath, devices, config, build_objects):
    with pytest.raises(DatapathError, match=r"device eth9 does not exist on this node; it has .*dev0"):
        datapath.apply(config, build_objects(), ["eth9"])
    assert not datapath.state_file.exists()


def test_an_attachment_that_somebody_removed_is_reported_and_restored(
    datapath, devices, config, build_objects
):
    datapath.apply(config, build_objects(), devices)
    datapath.place.attacher(datapath.place.known()).detach(index("dev0"), HOOKS["from_netdev"])
    assert datapath.status().problems == ["from_netdev is not attached to device dev0"]
    assert datapath.apply(config, build_objects(), devices).steps == ["attach from_netdev to dev0"]
    assert datapath.status().problems == []


def test_an_endpoint_whose_device_went_away_is_forgotten(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    gone = index("pod0")
    datapath.attach_endpoint(gone)
    ip("link", "del", "pod0")
    assert gone not in datapath.attached()
    datapath.sweep()
    assert not list(datapath.pins.links.glob(f"{gone}-*"))
    with pytest.raises(DatapathError, match=f"no network device with index {gone}"):
        datapath.attach_endpoint(gone)


def test_an_interface_number_used_again_starts_clean(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    number = index("pod0")
    datapath.attach_endpoint(number)
    ip("link", "del", "pod0")
    ip("link", "add", "again", "index", str(number), "type", "veth", "peer", "name", "againp")
    assert number not in datapath.attached()
    datapath.attach_endpoint(number)
    assert datapath.attached()[number] == POD


def test_host_routing_is_switched_and_remembered(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    told = datapath.set_host_routing("legacy", dry_run=True)
    assert (told.changed, told.before, told.after) == (True, "ebpf", "legacy")
    assert datapath.status().mode == "ebpf"

    change = datapath.set_host_routing("legacy")
    assert (change.changed, change.before, change.after, change.reason) == (True, "ebpf", "legacy", "")
    send("dev0")
    wait_for(lambda: counts(datapath)["packets"] > 0)
    assert counts(datapath)["host_routing"] == 0
    assert not datapath.set_host_routing("legacy").changed
    assert datapath.status().requested == "legacy"

    datapath.set_host_routing("ebpf")
    packets = counts(datapath)["packets"]
    send("dev0")
    wait_for(lambda: counts(datapath)["packets"] > packets)
    assert counts(datapath)["host_routing"] == 1


@pytest.mark.parametrize("missing", ["redirect_peer", "redirect_neigh"])
def test_a_kernel_without_the_helpers_gets_legacy_and_a_reason(
    datapath, devices, config, build_objects, monkeypatch, missing
):
    real = manager.probe_features
    monkeypatch.setattr(manager, "probe_features", lambda: replace(real(), **{missing: False}))
    changes = datapath.apply(config, build_objects(), devices)
    status = datapath.status()
    assert (status.mode, status.requested) == ("legacy", "ebpf")
    assert f"lacks bpf_{missing}" in status.reason
    assert any(missing in note for note in changes.notes)
    assert not datapath.apply(config, build_objects(), devices).changed
    change = datapath.set_host_routing("ebpf")
    assert (change.changed, change.after) == (False, "legacy")
    assert missing in change.reason


def test_remove_leaves_nothing_behind(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    datapath.attach_endpoint(index("pod0"))
    told = datapath.remove(dry_run=True)
    assert datapath.attached()
    done = datapath.remove()
    assert set(told.steps) <= set(done.steps)
    assert datapath.attached() == {}
    assert not datapath.state_file.exists()
    assert not datapath.pin_root.parent.is_mount()  # the manager had mounted it
    for name in ("dev0",):
        shown = subprocess.run(
            ["tc", "qdisc", "show", "dev", name], capture_output=True, text=True, check=True
        )
        assert "clsact" not in shown.stdout
    assert datapath.remove().changed is False
    assert datapath.status().installed is False


def test_without_a_datapath_endpoints_are_refused_with_the_way_out(datapath, devices):
    with pytest.raises(NotInstalled, match="podwire datapath apply"):
        datapath.attach_endpoint(index("pod0"))
    with pytest.raises(NotInstalled, match="podwire_ct4"):
        datapath.map("podwire_ct4")


def test_a_lost_state_file_is_rebuilt_and_endpoints_stay(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    datapath.attach_endpoint(index("pod0"))
    datapath.state_file.unlink()
    datapath.apply(config, build_objects(), devices)
    assert datapath.attached() == {index("dev0"): DEVICE, index("pod0"): POD}
    assert datapath.status().problems == []


def test_a_full_disk_stops_the_change_before_it_begins(datapath, devices, config, build_objects):
    datapath.apply(config, build_objects(), devices)
    before = datapath.pins.program_ids()
    datapath.state_file.with_name(".datapath.json.new").symlink_to("/dev/full")
    with pytest.raises(DatapathError, match="No space left on device"):
        datapath.apply(config, build_objects("GENERATION=2"), devices)
    assert datapath.pins.program_ids() == before
    assert datapath.status().problems == []


def test_damaged_objects_are_refused(datapath, devices, config, build_objects, tmp_path):
    copied = tmp_path / "objects"
    copied.mkdir()
    for file in build_objects().iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    (copied / "host.bpf.o").write_bytes(b"garbage")
    with pytest.raises(DatapathError, match=r"host\.bpf\.o is damaged"):
        datapath.apply(config, copied, devices)
    (copied / "manifest.json").unlink()
    with pytest.raises(DatapathError, match="no datapath objects in"):
        datapath.apply(config, copied, devices)


def test_changing_the_attach_kind_moves_everything(datapath, devices, config, build_objects, kind):
    if kind == "tcx":
        other = replace(config, attach="clsact")
        datapath.apply(config, build_objects(), devices)
        datapath.attach_endpoint(index("pod0"))
        datapath.apply(other, build_objects(), devices)
        assert datapath.attached() == {index("dev0"): DEVICE, index("pod0"): POD}
        assert not list(datapath.pins.links.iterdir())
        assert datapath.status().attach == "clsact"
        datapath.apply(config, build_objects(), devices)
        assert datapath.status().attach == "tcx"
        assert datapath.status().problems == []
        assert datapath.attached() == {index("dev0"): DEVICE, index("pod0"): POD}
