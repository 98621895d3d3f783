"""Releases on a node: what is planned, and what an installation that fails leaves behind (nothing)."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import release
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.release import Installed

LINK = "/usr/local/bin/podwire"
LINKS = {LINK: "/opt/podwire/current/bin/podwire"}
LINKED = tuple(LINKS.items())
A, B, C, D = (f"0.1.{number}-0123456789a{number}" for number in range(4))


def verbs(steps: list[release.Step]) -> list[str]:
    return [str(step) for step in steps]


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        pytest.param(Installed(), [f"install {C}", f"switch {C}", f"link {LINK}"], id="fresh node"),
        pytest.param(Installed((C,), (), C, LINKED), [], id="converged"),
        pytest.param(
            Installed((B,), (), B, LINKED), [f"install {C}", f"switch {C}"], id="upgrade keeps the way back"
        ),
        pytest.param(
            Installed((A, B), (), B, LINKED),
            [f"install {C}", f"switch {C}", f"prune {A}"],
            id="upgrade drops the oldest, never the one in use until now",
        ),
        pytest.param(
            Installed((C, D, B), (), B, LINKED),
            [f"switch {C}", f"prune {D}"],
            id="going back to an installed one",
        ),
        pytest.param(
            Installed((), (C,)),
            [f"clear {C}", f"install {C}", f"switch {C}", f"link {LINK}"],
            id="interrupted installation is made again",
        ),
        pytest.param(
            Installed((C,), (), C, ((LINK, "/elsewhere"),)), [f"link {LINK}"], id="wrong link is corrected"
        ),
    ],
)
def test_plan_present(have: Installed, expected: list[str]) -> None:
    steps = release.plan_present(C, have, keep=2, links=LINKS)
    assert verbs(steps) == expected
    done = release.after(have, steps, LINKS)
    assert done.current == C
    assert release.plan_present(C, done, keep=2, links=LINKS) == []


def test_keep_one_leaves_the_new_release_alone() -> None:
    steps = release.plan_present(C, Installed((A, B), (), B, LINKED), keep=1, links=LINKS)
    assert verbs(steps) == [f"install {C}", f"switch {C}", f"prune {A}", f"prune {B}"]


def test_absent_removes_everything_and_then_nothing() -> None:
    have = Installed((A, B), (C,), B, LINKED)
    steps = release.plan_absent(have)
    assert verbs(steps) == [f"unlink {LINK}", "unlink current", f"remove {C}", f"remove {A}", f"remove {B}"]
    assert release.plan_absent(release.after(have, steps, LINKS)) == []


def test_read_tells_finished_releases_from_interrupted_ones(tmp_path: Path) -> None:
    for name in (A, B):
        (tmp_path / name).mkdir()
    (tmp_path / A / release.MARKER).write_text("")
    (tmp_path / "bpf").mkdir()
    (tmp_path / "current").symlink_to(A)
    have = release.read(tmp_path, {})
    assert have == Installed(releases=(A,), unfinished=(B,), current=A)


def bundle(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_member_outside_the_bundle_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    archive = bundle(tmp_path / "b.tar.gz", {"fine": b"1", name: b"2"})
    with pytest.raises(PodwireError, match="does not belong in a bundle"):
        release.install(tmp_path / A, bundle=archive, python=sys.executable)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.gz"]


def test_damaged_bundle_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = bundle(tmp_path / "b.tar.gz", {"wheels/pip-1.whl": bytes(100_000)})
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(PodwireError, match=r"b\.tar\.gz is damaged"):
        release.install(tmp_path / A, bundle=archive, python=sys.executable)
    assert not (tmp_path / A).exists()


def test_missing_bundle_names_the_role_that_brings_it(tmp_path: Path) -> None:
    with pytest.raises(PodwireError) as caught:
        release.install(tmp_path / A, bundle=tmp_path / "none.tar.gz", python=sys.executable)
    assert "role podwire.ebpf.agent" in caught.value.result()["msg"]


def test_failing_pip_shows_what_it_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = bundle(tmp_path / "b.tar.gz", {"wheels/pip-99.whl": b"not a wheel"})
    with pytest.raises(PodwireError, match="could not install the wheels"):
        release.install(tmp_path / A, bundle=archive, python="/usr/bin/python3")
    assert not (tmp_path / A).exists()


def test_link_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "podwire").write_text("not ours")
    with pytest.raises(PodwireError, match="is in the way"):
        release.apply(
            [release.Step("link", str(tmp_path / "podwire"))],
            root=tmp_path,
            bundle=None,
            python="",
            links={str(tmp_path / "podwire"): "/elsewhere"},
        )
    assert (tmp_path / "podwire").read_text() == "not ours"
