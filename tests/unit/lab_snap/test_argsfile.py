from __future__ import annotations

from pathlib import Path

import pytest
from mk8s import argsfile

TEXT = "# first\n--a=1\n--labels=x=1,y=2\n\n--flag\n--spaced value\n"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param("--a", "1", id="plain"),
        pytest.param("--labels", "x=1,y=2", id="value with equal signs"),
        pytest.param("--flag", "", id="flag without value"),
        pytest.param("--spaced", "value", id="separated by a space"),
        pytest.param("--none", None, id="absent"),
        pytest.param("--lab", None, id="a prefix is another flag"),
    ],
)
def test_get(key: str, expected: str | None) -> None:
    assert argsfile.get(TEXT, key) == expected


def test_the_last_of_several_lines_wins() -> None:
    assert argsfile.get("--a=1\n--a='2'\n", "--a") == "2"


def test_edit_keeps_comments_blank_lines_and_order() -> None:
    edited = argsfile.edit(TEXT, {"--a": "9", "--flag": None, "--new": "n"})
    assert edited == "# first\n--a=9\n--labels=x=1,y=2\n\n--spaced value\n--new=n\n"


def test_edit_leaves_one_line_of_a_repeated_flag() -> None:
    assert argsfile.edit("--a=1\n--b=2\n--a=3\n", {"--a": "4"}) == "--a=4\n--b=2\n"


def test_update_tells_whether_the_file_differs_now(tmp_path: Path) -> None:
    path = tmp_path / "kubelet"
    path.write_text("--a=1\n")
    assert argsfile.update(path, {"--a": "2"})
    assert not argsfile.update(path, {"--a": "2"})
    assert path.read_text() == "--a=2\n"
