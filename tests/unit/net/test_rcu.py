"""The grace-period switch is given back, whatever happens, and only when it was ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.net.rcu import Grace


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    return path


def test_on_inside_and_off_afterwards(tmp_path: Path, switch: Path) -> None:
    grace = Grace(tmp_path / "marker", switch)
    with grace.hurried():
        assert switch.read_text() == "1"
    assert switch.read_text() == "0"
    assert not (tmp_path / "marker").exists()


def test_off_after_a_failure_too(tmp_path: Path, switch: Path) -> None:
    with pytest.raises(RuntimeError), Grace(tmp_path / "marker", switch).hurried():
        raise RuntimeError
    assert switch.read_text() == "0"


def test_somebody_elses_setting_stays(tmp_path: Path, switch: Path) -> None:
    switch.write_text("1\n")
    grace = Grace(tmp_path / "marker", switch)
    with grace.hurried():
        pass
    grace.restore()
    assert switch.read_text() == "1\n"


def test_next_agent_turns_off_what_a_killed_one_left(tmp_path: Path, switch: Path) -> None:
    killed = Grace(tmp_path / "marker", switch).hurried()
    killed.__enter__()
    Grace(tmp_path / "marker", switch).restore()
    assert switch.read_text() == "0"
    assert not (tmp_path / "marker").exists()


def test_kernel_without_the_switch_is_fine(tmp_path: Path) -> None:
    with Grace(tmp_path / "marker", tmp_path / "none").hurried():
        assert not (tmp_path / "marker").exists()
