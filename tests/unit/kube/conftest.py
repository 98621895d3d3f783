"""A Kubernetes API to talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .api_server import Api, serve


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[Api, Path]]:
    yield from serve(tmp_path)
