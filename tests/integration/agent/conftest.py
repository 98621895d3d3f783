"""Fixtures: the CNI plugin and the datapath as they are shipped, and networks of nodes."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import build

from .lab import REPOSITORY, Network, Node

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 and items:
        pytest.exit(
            "tests/integration/agent needs root: it makes namespaces and loads BPF programs", returncode=2
        )


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datapath's objects, compiled from bpf/."""
    return build(REPOSITORY / "bpf", Cache(tmp_path_factory.mktemp("cache")), lambda line: None)


@pytest.fixture(scope="session")
def cni_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cni") / "podwire-cni"
    source = REPOSITORY / "cni" / "podwire-cni.c"
    command = ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(path), str(source)]
    subprocess.run(command, check=True)
    return path


@contextlib.contextmanager
def network_in(directory: Path, objects: Path, cni_plugin: Path) -> Iterator[Network]:
    """A network that is gone afterwards."""
    network = Network(f"ag{os.getpid() % 100000}x{next(_numbers)}", directory, objects, cni_plugin)
    try:
        yield network
    finally:
        logs = [node.log() for node in network.nodes]
        network.close()
        print("\n".join(logs))  # shown by pytest when the test failed


@pytest.fixture
def network(tmp_path: Path, objects: Path, cni_plugin: Path) -> Iterator[Network]:
    with network_in(tmp_path, objects, cni_plugin) as network:
        yield network


@pytest.fixture
def make_node(network: Network) -> Callable[..., Node]:
    """``make_node(**settings)``: a node with loaded datapath and ready agent."""

    def make(**settings: object) -> Node:
        node = network.add_node(**settings)
        node.load()
        node.start()
        return node

    return make


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node()
