"""Two pods of a podwire node: the datapath, the agent and the CNI plugin as they are shipped."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import build

from tests.integration.agent.lab import REPOSITORY, Network

from .topology import Pair


def _compile_cni(directory: Path) -> Path:
    output = directory / "podwire-cni"
    subprocess.run(
        ["gcc", "-static", "-O2", "-o", str(output), str(REPOSITORY / "cni" / "podwire-cni.c")], check=True
    )
    return output


@contextlib.contextmanager
def podwire_pods(prefix: str, work: Path, host_routing: str) -> Iterator[Pair]:
    """A node with a running agent and two pods that came by CNI ADD."""
    objects = build(REPOSITORY / "bpf", Cache(work / "cache"), lambda line: None)
    network = Network(f"{prefix}p", work, objects, _compile_cni(work))
    try:
        node = network.add_node()
        node.load(host_routing)
        node.start()
        client, server = node.add("client"), node.add("server")
        yield Pair("podwire", client.netns, server.netns, server.address)
    finally:
        network.close()
