"""Traffic tests of the datapath: namespaces instead of machines, everything else is real."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.objects import compile_objects
from tests.integration.datapath.cluster import Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 and any(Path(__file__).parent in item.path.parents for item in items):
        pytest.exit("tests/integration/datapath needs root: it makes network namespaces", returncode=2)


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_objects(tmp_path_factory.mktemp("datapath"))


KINDS = ["clsact"] if os.environ.get("PODWIRE_TEST_NO_TCX") else ["tcx", "clsact"]


MODES = ("ebpf", "legacy")
BY_MODE = [f"{mode}-{KINDS[0]}" for mode in MODES]
"""Both ways of host routing, attached as this kernel does it best."""
EVERY_WAY = [f"{mode}-{kind}" for kind in KINDS for mode in MODES]
"""How programs are attached changes nothing of what they do: tests that cross every hook see all of them."""


@pytest.fixture(scope="module", params=BY_MODE)
def cluster(
    request: pytest.FixtureRequest, objects: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A running cluster, in both modes of host routing; of every way for tests that ask for it."""
    mode, kind = request.param.split("-")
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        made.build()
        made.start(objects, mode=mode, attach=kind)
        made.mode = mode
        yield made
    finally:
        made.close()
