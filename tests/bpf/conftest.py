"""Packet tests: the datapath's programs run on packets that tests build, without being attached anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.node import EBPF, LEGACY, Node, make_devices, private_netns
from tests.bpf.objects import compile_objects
from tests.bpf.services import Services


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 and any(Path(__file__).parent in item.path.parents for item in items):
        pytest.exit("tests/bpf needs root: it loads BPF programs and makes network namespaces", returncode=2)


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the compiled objects."""
    return compile_objects(tmp_path_factory.mktemp("datapath"))


@pytest.fixture(scope="session")
def devices() -> Iterator[None]:
    """A network namespace with the node's devices and routes, for the whole run."""
    with private_netns():
        make_devices()
        yield


@pytest.fixture
def node(devices: None, objects: Path) -> Iterator[Node]:
    """A fresh node in eBPF host routing."""
    with Node(objects) as fresh:
        yield fresh


@pytest.fixture
def legacy(devices: None, objects: Path) -> Iterator[Node]:
    """A fresh node in legacy host routing."""
    with Node(objects, cfg_host_routing=LEGACY) as fresh:
        yield fresh


@pytest.fixture(params=[EBPF, LEGACY], ids=["ebpf", "legacy"])
def either(request: pytest.FixtureRequest, devices: None, objects: Path) -> Iterator[Node]:
    """For behaviour that both host-routing modes share."""
    with Node(objects, cfg_host_routing=request.param) as fresh:
        yield fresh


@pytest.fixture(params=[EBPF, LEGACY], ids=["ebpf", "legacy"])
def proxy(request: pytest.FixtureRequest, devices: None, objects: Path) -> Iterator[Node]:
    """A fresh node that translates services, in either host-routing mode."""
    with Node(objects, cfg_host_routing=request.param, cfg_services=1) as fresh:
        fresh.services = Services(fresh.maps)
        yield fresh


@pytest.fixture
def ebpf_proxy(devices: None, objects: Path) -> Iterator[Node]:
    """A fresh node that translates services, in eBPF host routing."""
    with Node(objects, cfg_services=1) as fresh:
        fresh.services = Services(fresh.maps)
        yield fresh
