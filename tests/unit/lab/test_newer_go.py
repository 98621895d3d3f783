"""Sources of Kubernetes are changed where they must be, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import LabError
from lab.kubernetes import newer_go


def test_validator_asks_for_nil_alone(tmp_path: Path) -> None:
    file = tmp_path / "type.go"
    file.write_text(f"\tif data == nil || {newer_go.COMPARED} {{\n")
    newer_go.tell_empty_from_null(file)
    assert file.read_text() == f"\tif data == nil || {newer_go.NIL} {{\n"


@pytest.mark.parametrize("times", [0, 2])
def test_another_source_is_refused(tmp_path: Path, times: int) -> None:
    file = tmp_path / "type.go"
    file.write_text(newer_go.COMPARED * times)
    with pytest.raises(LabError, match=r"type\.go"):
        newer_go.tell_empty_from_null(file)
    assert file.read_text() == newer_go.COMPARED * times
