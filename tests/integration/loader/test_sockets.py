"""The programs of sockets: attached when services are on, replaced in place, gone when they are off."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from podwire.bpf import Link, MapType, Program
from podwire.bpf import Map as BpfMap
from podwire.datapath import Datapath, DatapathConfig, DatapathError, ServiceSettings, sockets, state
from podwire.datapath.hooks import CGROUP_HOOKS, SOCKET_PROGRAMS
from podwire.net import netns as namespaces

from .conftest import Crash, ip

HOOKS = sorted(hook.name for hook in CGROUP_HOOKS)
CONNECT4 = 5
ON = ServiceSettings(enabled=True)


@pytest.fixture
def kind() -> str:
    """How devices are attached makes no difference to sockets."""
    return "clsact"


@pytest.fixture
def datapath(tmp_path, netns, cgroup, datapath):
    """The manager of the other tests, but for the sockets of one control group."""
    ip("link", "set", "lo", "up")
    return Datapath(datapath.pin_root, tmp_path / "run", tmp_path / "state", cgroup=cgroup.path)


@pytest.fixture
def served(config: DatapathConfig) -> DatapathConfig:
    return replace(config, services=ON)


def connections(datapath) -> int:
    return datapath.map("podwire_counts").get(CONNECT4)["packets"]


def test_services_off_touch_no_socket(datapath, devices, config, build_objects):
    changes = datapath.apply(config, build_objects(), devices)
    assert not [step for step in changes.steps if "connect4" in step or "podwire_sockets" in step]
    assert changes.after["sockets"] == "not served"
    assert not datapath.pins.program_ids().keys() & SOCKET_PROGRAMS.keys()
    assert datapath.status().sockets == {"enabled": False, "cgroup": "", "attached": [], "reason": ""}


def test_services_on_serve_the_sockets_of_the_control_group(datapath, devices, served, build_objects, cgroup):
    told = datapath.apply(served, build_objects(), devices, dry_run=True)
    done = datapath.apply(served, build_objects(), devices)
    assert told.steps == done.steps
    assert f"attach connect4 to control group {cgroup.path}" in done.steps
    assert done.after["sockets"] == str(cgroup.path)
    status = datapath.status()
    assert status.problems == []
    assert status.sockets == {"enabled": True, "cgroup": str(cgroup.path), "attached": HOOKS, "reason": ""}
    assert {program.name for program in status.programs} >= SOCKET_PROGRAMS.keys()
    assert not datapath.apply(served, build_objects(), devices).changed

    before = connections(datapath)
    assert cgroup.connect() == errno.ECONNREFUSED
    assert connections(datapath) == before + 1


def test_sockets_of_other_control_groups_are_left_alone(datapath, devices, served, build_objects, cgroup):
    datapath.apply(served, build_objects(), devices)
    script = "import socket; print(socket.socket().connect_ex(('127.0.0.1', 9)))"
    assert (
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        == f"{errno.ECONNREFUSED}\n"
    )
    assert connections(datapath) == 0


def test_a_new_build_replaces_the_programs_in_place(datapath, devices, served, build_objects, cgroup):
    datapath.apply(served, build_objects(), devices)
    with Link.pinned(datapath.pins.links / "cgroup-connect4") as link:
        before = link.info
    changes = datapath.apply(served, build_objects("GENERATION=2"), devices)
    assert f"replace connect4 of control group {cgroup.path}" in changes.steps
    with Link.pinned(datapath.pins.links / "cgroup-connect4") as link:
        assert link.info.id == before.id
        assert link.info.prog_id == datapath.pins.program_ids()["podwire_connect4"] != before.prog_id
    cgroup.connect()
    assert datapath.map("podwire_counts").get(CONNECT4)["generation"] == 2
    assert datapath.status().problems == []


def test_turning_services_off_takes_everything_of_sockets_away(
    datapath, devices, served, config, build_objects, cgroup
):
    datapath.apply(served, build_objects(), devices)
    told = datapath.apply(config, build_objects(), devices, dry_run=True)
    changes = datapath.apply(config, build_objects(), devices)
    assert told.steps == changes.steps
    assert "detach connect4 from its control group" in changes.steps
    assert "remove program podwire_connect4" in changes.steps
    assert "remove map podwire_sockets: nothing uses it" in changes.steps
    assert not [path for path in datapath.pins.all() if "connect4" in path.name or "sockets" in path.name]
    cgroup.connect()
    assert connections(datapath) == 0
    assert not datapath.apply(config, build_objects(), devices).changed


def test_removal_detaches_from_sockets(datapath, devices, served, build_objects, cgroup):
    datapath.apply(served, build_objects(), devices)
    counts = datapath.map("podwire_counts")
    told = datapath.remove(dry_run=True)
    assert cgroup.connect() == errno.ECONNREFUSED
    assert counts.get(CONNECT4)["packets"] == 1
    with BpfMap.by_id(counts.info.id) as kept:
        assert datapath.remove().steps[: len(told.steps)] == told.steps
        assert "detach connect4 from its control group" in told.steps
        cgroup.connect()
        assert kept.get(CONNECT4)["packets"] == 1
    assert not datapath.pin_root.exists()


def test_an_attachment_that_is_gone_is_reported_and_made_again(
    datapath, devices, served, build_objects, cgroup
):
    datapath.apply(served, build_objects(), devices)
    (datapath.pins.links / "cgroup-connect4").unlink()
    status = datapath.status()
    assert status.problems == [f"connect4 is not attached to control group {cgroup.path}"]
    assert status.sockets["reason"] == f"connect4 not attached to control group {cgroup.path}"
    assert datapath.apply(served, build_objects(), devices).steps == [
        f"attach connect4 to control group {cgroup.path}"
    ]
    assert datapath.status().problems == []


def test_another_control_group_takes_the_attachments_over(
    datapath, devices, served, build_objects, cgroup, tmp_path
):
    datapath.apply(served, build_objects(), devices)
    below = cgroup.path / "below"
    below.mkdir()
    try:
        other = Datapath(datapath.pin_root, tmp_path / "run", tmp_path / "state", cgroup=below)
        changes = other.apply(served, build_objects(), devices)
        assert f"attach connect4 to control group {below}" in changes.steps
        assert other.status().problems == []
        cgroup.connect()
        assert connections(other) == 0
    finally:
        below.rmdir()


def test_a_node_without_control_groups_runs_without_and_says_why(
    datapath, devices, served, build_objects, tmp_path
):
    nowhere = Datapath(datapath.pin_root, tmp_path / "run", tmp_path / "state", cgroup=tmp_path / "missing")
    changes = nowhere.apply(served, build_objects(), devices)
    reason = f"control group {tmp_path / 'missing'}: No such file or directory"
    assert [note for note in changes.notes if note.endswith(reason)]
    status = nowhere.status()
    assert status.sockets == {"enabled": True, "cgroup": "", "attached": [], "reason": reason}
    assert [problem for problem in status.problems if problem.endswith(reason)]
    assert not nowhere.apply(served, build_objects(), devices).changed


def test_a_kernel_that_refuses_the_attachment_is_quoted(datapath, devices, served, build_objects, tmp_path):
    """A directory that is no control group is refused as any other obstacle is."""
    refused = Datapath(datapath.pin_root, tmp_path / "run", tmp_path / "state", cgroup=tmp_path)
    changes = refused.apply(served, build_objects(), devices)
    assert not [step for step in changes.steps if "control group" in step]
    assert "EBADF" in refused.status().sockets["reason"]
    assert refused.attached()


def test_the_hosts_namespace_is_known_by_its_cookie(datapath, devices, served, config, build_objects):
    cookie = namespaces.cookie()
    if os.environ.get("PODWIRE_TEST_NO_NETNS_COOKIE"):
        assert cookie is None
        return
    assert cookie
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with namespaces.closing(descriptor) as own, namespaces.entered(own):
        assert namespaces.cookie() == cookie
    datapath.apply(served, build_objects(), devices)
    digest = datapath.status().digest
    datapath.apply(config, build_objects(), devices)
    assert datapath.status().digest != digest


@pytest.mark.parametrize("direction", ["on", "off"])
@pytest.mark.parametrize("call", [1, 12, 18, 20, 30])
def test_a_crash_at_any_step_of_the_change_is_repaired_by_the_next_run(
    datapath, devices, served, config, build_objects, cgroup, monkeypatch, call, direction
):
    """On: 11 programs pinned, 7 links pinned, 11 programs renamed, the state written. Off: 4 programs pinned,
    7 links detached, 4 programs renamed, 7 removed with one link pin each and two maps, the state written."""
    before, after = (config, served) if direction == "on" else (served, config)
    datapath.apply(before, build_objects(), devices)
    crash = Crash(call)
    with monkeypatch.context() as patch:
        patch.setattr(Program, "pin", crash.before(Program.pin))
        patch.setattr(Link, "pin", crash.before(Link.pin))
        patch.setattr(Link, "detach", crash.before(Link.detach))
        patch.setattr(Path, "rename", crash.before(Path.rename))
        patch.setattr(Path, "unlink", crash.before(Path.unlink))
        patch.setattr(state, "write", crash.before(state.write))
        with contextlib.suppress(KeyboardInterrupt):
            datapath.apply(after, build_objects(), devices)
    assert crash.remaining <= 0, "every call that is listed is made"

    datapath.apply(after, build_objects(), devices)
    status = datapath.status()
    assert status.problems == []
    assert status.sockets["attached"] == (HOOKS if direction == "on" else [])
    assert not list(datapath.pin_root.rglob("*-new"))
    assert (datapath.pins.program_ids().keys() >= SOCKET_PROGRAMS.keys()) is (direction == "on")
    assert ("podwire_sockets" in datapath.map_names()) is (direction == "on")
    assert not datapath.apply(after, build_objects(), devices).changed
    seen = connections(datapath)
    cgroup.connect()
    assert connections(datapath) - seen == (1 if direction == "on" else 0)


def test_maglev_tables_are_put_in_place_and_taken_away(datapath, devices, served, build_objects):
    datapath.apply(served, build_objects(), devices)
    table = [number % 3 for number in range(16381)]
    for _ in range(2):
        datapath.maglev_set(7, table)
    (number,) = dict(datapath.map("podwire_maglev").items()).values()
    with BpfMap.by_id(number) as inner:
        assert inner.info.type == MapType.ARRAY
        assert inner.get(bytes(4))[:8] == bytes((0, 0, 1, 0, 2, 0, 0, 0))
    with pytest.raises(DatapathError, match="list 7 has 251 entries, the programs expect another number"):
        datapath.maglev_set(7, table[:251])
    assert datapath.maglev_delete(7)
    assert not datapath.maglev_delete(7)


def test_a_larger_map_of_tables_keeps_them(datapath, devices, served, build_objects):
    datapath.apply(served, build_objects(), devices)
    datapath.maglev_set(7, [3] * 16381)
    before = dict(datapath.map("podwire_maglev").items())
    datapath.apply(replace(served, map_entries={"podwire_maglev": 16}), build_objects(), devices)
    assert datapath.map("podwire_maglev").info.max_entries == 16
    assert dict(datapath.map("podwire_maglev").items()) == before


def test_tables_of_another_size_make_the_map_anew(datapath, devices, served, build_objects):
    datapath.apply(served, build_objects(), devices)
    datapath.maglev_set(7, [0] * 16381)
    larger = replace(served, services=ServiceSettings(enabled=True, maglev_size=65537))
    changes = datapath.apply(larger, build_objects(), devices)
    assert "recreate map podwire_maglev: its tables become 131074 bytes large" in changes.steps
    assert not datapath.apply(larger, build_objects(), devices).changed
    datapath.maglev_set(7, [0] * 65537)


def test_where_sockets_are_served_is_decided_by_settings_kernel_and_control_groups(config, tmp_path):
    from podwire.datapath.kernel import probe_features

    features = probe_features()
    assert sockets.decide(ServiceSettings(), features, None) == sockets.Target(None)
    assert sockets.decide(ON, features, tmp_path) == sockets.Target(tmp_path)
    assert sockets.decide(ON, features, None).directory == Path(sockets.cgroup.root())
    without = sockets.decide(ON, replace(features, socket_programs=False), tmp_path)
    assert without.directory is None
    assert "CONFIG_CGROUP_BPF" in without.reason
