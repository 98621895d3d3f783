"""The plan that brings the snap to the wanted channel or file."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_install import (
    Installed,
    Step,
    Wanted,
    WantedFile,
    guess_name,
    hold_refusal,
    installed,
    is_held,
    normal_channel,
    plan,
    same_content,
    sha256_of,
    snapd_release,
)

NEW, OLD = "2.63", "2.57.6-1+deb12u1"
FILE = WantedFile("/tmp/microk8s.snap")


def have(**changes):
    base = {
        "revision": "7123",
        "version": "v1.28.15",
        "tracking": "1.28/stable",
        "confinement": "classic",
        "enabled": True,
        "held": True,
    }
    return Installed(**{**base, **changes})


def words(steps):
    return [f"{step.action} {step.channel or step.file or ''}".strip() for step in steps]


@pytest.mark.parametrize(
    ("wanted", "installed", "steps"),
    [
        (Wanted(True, channel="1.28"), None, ["install 1.28/stable", "hold"]),
        (Wanted(True, channel="1.28", hold=False), None, ["install 1.28/stable"]),
        (Wanted(True, channel="1.28/stable"), have(), []),
        (Wanted(True, channel="1.28"), have(held=False), ["hold"]),
        (Wanted(True, channel="1.29/stable"), have(), ["refresh 1.29/stable"]),
        (Wanted(True), have(tracking="1.30/edge"), []),
        (Wanted(True, channel="1.28"), have(enabled=False), ["enable"]),
        (Wanted(True, channel="1.29"), have(enabled=False), ["enable", "refresh 1.29/stable"]),
        (Wanted(True, channel="1.28"), have(revision="x1", tracking=""), ["refresh 1.28/stable"]),
        (Wanted(True, file=FILE), None, [f"sideload {FILE.path}"]),
        (Wanted(True, file=FILE), have(revision="x1", tracking="", same_content=True, held=False), []),
        (Wanted(True, file=FILE), have(same_content=False), [f"sideload {FILE.path}"]),
        (Wanted(True, file=FILE, dangerous=False), None, [f"sideload {FILE.path}", "hold"]),
        (Wanted(False), None, []),
        (Wanted(False), have(), ["remove"]),
        (Wanted(False), have(enabled=False), ["enable", "remove"]),
    ],
)
def test_plan(wanted, installed, steps):
    assert words(plan(wanted, installed, [], NEW)) == steps


def test_a_snapd_without_hold_gets_no_hold_and_a_reason():
    wanted = Wanted(True, channel="1.28")
    assert words(plan(wanted, None, [], OLD)) == ["install 1.28/stable"]
    assert "2.58" in hold_refusal(wanted, False, OLD)
    assert hold_refusal(wanted, False, NEW) == ""


def test_prerequisites_come_first():
    first = Step("sideload", "core20", file="/core20.snap")
    assert plan(Wanted(True, file=FILE), None, [first], OLD)[0] is first
    assert plan(Wanted(False), have(), [first], OLD) == [Step("remove", "microk8s")]


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("1.28", "1.28/stable"),
        ("1.28/edge", "1.28/edge"),
        ("stable", "latest/stable"),
        ("edge/fix", "latest/edge/fix"),
        ("1.28/edge/fix", "1.28/edge/fix"),
        ("latest/stable", "latest/stable"),
    ],
)
def test_channels_are_written_in_full(given, full):
    assert normal_channel(given) == full
    assert normal_channel(full) == full


@pytest.mark.parametrize("wrong", ["", "/", "1.28//x", "1.28/fast", "a/b/c/d"])
def test_what_is_no_channel_is_refused(wrong):
    with pytest.raises(PodwireError, match="no channel"):
        normal_channel(wrong)


@pytest.mark.parametrize(
    ("text", "release"), [("2.57.6-1+deb12u1", (2, 57)), ("2.63", (2, 63)), ("", (0, 0))]
)
def test_snapd_release(text, release):
    assert snapd_release(text) == release


@pytest.mark.parametrize(
    ("hold", "held"),
    [(None, False), ("2318-03-01T00:00:00Z", True), ("2026-11-24T00:00:00Z", False), ("", False)],
)
def test_only_a_hold_for_centuries_counts(hold, held):
    assert is_held({"hold": hold}, now=1_795_000_000) is held


@pytest.mark.parametrize("path", ["/x/microk8s_v1.28_amd64.snap", "microk8s.snap"])
def test_a_snaps_name_by_its_file(path):
    assert guess_name(path) == "microk8s"


def test_an_installed_file_is_recognised_by_content(tmp_path):
    blob, file = tmp_path / "blob", tmp_path / "file"
    record = {"name": "microk8s", "revision": "x1", "status": "active", "mounted-from": str(blob)}
    assert not same_content(record, WantedFile(str(file)))
    blob.write_bytes(b"one")
    file.write_bytes(b"one")
    assert same_content(record, WantedFile(str(file)))
    file.write_bytes(b"two")
    assert not same_content(record, WantedFile(str(file)))
    file.write_bytes(b"longer")
    assert not same_content(record, WantedFile(str(file)))
    file.unlink()
    assert not same_content(record, WantedFile(str(file)))
    assert same_content(record, WantedFile(str(file), sha256_of(blob).upper()))
    found = installed(record, Wanted(True, file=WantedFile(str(file), sha256_of(blob))))
    assert found.same_content and found.local and not found.held
