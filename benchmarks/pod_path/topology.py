"""Pairs of network namespaces to measure between: a bare veth pair, and two pods behind a minimal program."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute, netns

from podwire.bpf import BpfObject, Link, Tcx

MTU = 1500


@dataclass(frozen=True, slots=True)
class Pair:
    """Two namespaces that reach each other; ``address`` is the server's."""

    name: str
    client: str
    server: str
    address: str


def run(*command: str) -> str:
    """Run a command, return its output; a failure carries what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace with its loopback up, gone afterwards."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Run the calling thread inside a network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        netns.setns(name)
        yield
    finally:
        netns.setns(before)
        os.close(before)


@contextlib.contextmanager
def bare_veth(prefix: str) -> Iterator[Pair]:
    """The speed limit: one veth pair, no node between."""
    with namespace(f"{prefix}-va") as client, namespace(f"{prefix}-vb") as server:
        run("ip", "-n", client, "link", "add", "eth0", "mtu", str(MTU), "type", "veth",
            "peer", "name", "eth0", "netns", server)  # fmt: skip
        for name, address in ((client, "10.77.0.1/24"), (server, "10.77.0.2/24")):
            run("ip", "-n", name, "address", "add", address, "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        yield Pair("veth", client, server, "10.77.0.2")


@contextlib.contextmanager
def minimal_program(prefix: str, node: str, program: Path) -> Iterator[Pair]:
    """Two pods on ``node`` whose host-side veths carry nothing but a call of bpf_redirect_peer."""
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(namespace(f"{prefix}-{end}")) for end in ("ma", "mb")]
        for index, name in enumerate(names):
            run("ip", "-n", node, "link", "add", f"min{index}", "mtu", str(MTU), "type", "veth",
                "peer", "name", "eth0", "netns", name)  # fmt: skip
            run("ip", "-n", node, "link", "set", f"min{index}", "up")
            run("ip", "-n", name, "address", "add", f"10.78.0.{index + 1}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        # The program answers no ARP, so each end knows the other's address from the start.
        for name, other, address in ((names[0], names[1], "10.78.0.2"), (names[1], names[0], "10.78.0.1")):
            run("ip", "-n", name, "neighbour", "replace", address, "lladdr", _mac(other), "dev", "eth0")
        with entered(node):
            with IPRoute() as netlink:
                indexes = [netlink.link_lookup(ifname=f"min{index}")[0] for index in range(2)]
            for here, there in (indexes, indexes[::-1]):
                loaded = stack.enter_context(BpfObject.open(program))
                loaded.set_constants({"cfg_peer_ifindex": there})
                loaded.load()
                stack.enter_context(Link.tcx(loaded.program("redirect_peer"), here, Tcx.INGRESS))
        yield Pair("minimal", names[0], names[1], "10.78.0.2")


def _mac(name: str) -> str:
    return run("ip", "netns", "exec", name, "cat", "/sys/class/net/eth0/address").strip()
