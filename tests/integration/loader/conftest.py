"""Fixtures: compiled stand-in objects, a private network namespace and BPF file system for each test."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import build

from podwire.datapath import Datapath, DatapathConfig
from tests.control_group import ControlGroup

OBJECTS = Path(__file__).parent / "objects"
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 and any("loader" in str(item.path) for item in items):
        pytest.exit("tests/integration/loader needs root: it loads BPF programs", returncode=2)


@pytest.fixture(scope="session")
def build_objects(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``build_objects("WIDE", "GENERATION=2")`` gives the directory of that variant."""
    prebuilt = os.environ.get("PODWIRE_TEST_OBJECTS")  # where there is no compiler: the kernel tests' machine
    if prebuilt:
        return lambda *defines: Path(prebuilt) / ("-".join(defines) or "plain")
    cache = Cache(tmp_path_factory.mktemp("cache"))
    return lambda *defines: build(OBJECTS, cache, lambda line: None, defines=defines)


def build_repository_objects() -> Path:
    """The datapath itself, from the build cache."""
    return build(Path(__file__).parents[3] / "bpf", Cache(), lambda line: None)


@pytest.fixture
def netns() -> Iterator[None]:
    """The test runs in a network namespace of its own (with a loopback device and nothing else)."""
    with Path("/proc/thread-self/ns/net").open() as home:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def ip(*arguments: str) -> str:
    """Run iproute2 in the test's namespace."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def devices(netns: None) -> list[str]:
    """Two veth pairs: ``dev0`` plays the node's device, ``pod0`` and ``pod1`` host sides of pods."""
    for name in ("dev0", "pod0", "pod1"):
        ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        ip("link", "set", name, "up")
        ip("link", "set", f"{name}p", "up")
    return ["dev0"]


@pytest.fixture
def datapath(tmp_path: Path) -> Iterator[Datapath]:
    """A manager over a private BPF file system, which it has to mount itself."""
    root = tmp_path / "bpf"
    yield Datapath(pin_root=root / "podwire", run_dir=tmp_path / "run", state_dir=tmp_path / "state")
    while root.is_mount():
        subprocess.run(["umount", root], check=True)


# Every test that attaches runs both ways; a machine whose kernel has no tcx says so, and gets clsact alone.
KINDS = ["clsact"] if os.environ.get("PODWIRE_TEST_NO_TCX") else ["tcx", "clsact"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(kind: str) -> DatapathConfig:
    return DatapathConfig(node_ip="192.0.2.1", attach=kind, host_routing="ebpf")


@pytest.fixture
def cgroup() -> Iterator[ControlGroup]:
    """A control group with a process in it."""
    with ControlGroup() as made:
        yield made


class Crash:
    """Dies (by KeyboardInterrupt) in the n-th call of any of the functions that it was put before."""

    def __init__(self, call: int) -> None:
        self.remaining = call

    def before(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self.remaining -= 1
            if self.remaining == 0:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return wrapper
