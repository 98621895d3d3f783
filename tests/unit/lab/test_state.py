"""What a lab remembers between runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import config, state


@pytest.fixture
def root(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(state, "ROOT", tmp_path)
    return tmp_path


def test_entries_of_every_lab_are_in_use(root):
    for directory, entry in ((".lab", "/cache/snaps/one"), (".lab-second", "/cache/snaps/two")):
        (root / directory).mkdir()
        (root / directory / "lab.json").write_text(json.dumps({"artifacts": {"snaps": entry}}))
    assert state.artifacts_in_use() == {Path("/cache/snaps/one"), Path("/cache/snaps/two")}


def test_a_lab_without_memory_uses_nothing(root):
    (root / ".lab-killed").mkdir()
    (root / ".lab-killed" / "lab.json").write_text("{")
    assert state.artifacts_in_use() == set()
