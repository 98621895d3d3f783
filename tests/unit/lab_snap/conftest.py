"""The snap's Python library lies in the tree that is packed; tests import it from there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SNAP_TREE = Path(__file__).parents[3] / "lab" / "snap" / "tree"
sys.path.insert(0, str(SNAP_TREE / "lib"))

from mk8s.layout import Layout  # noqa: E402


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A node's directories in a temporary place, with the snap's real files as its code."""
    made = Layout(snap=SNAP_TREE, data=tmp_path / "x1", common=tmp_path / "common")
    (tmp_path / "current").symlink_to("x1")
    return made
