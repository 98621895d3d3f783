"""Switching between eBPF and legacy host routing under load."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.datapath.netfilter import LENIENT
from tests.integration.datapath import traffic
from tests.integration.datapath.cluster import ADDRESSES, NODE1, NODE_PORT, VIP, Cluster
from tests.integration.datapath.conftest import KINDS
from tests.integration.datapath.traffic import Chatter

PORT = 8080
MANY_WINDOWS = 24 << 20
"""Bytes; a TCP window grows to 6 MiB at most (tcp_rmem)."""
HALF_SEQUENCE_SPACE = 1 << 31
"""Bytes."""
CONNECTIONS = [
    # client, server, and the address the client uses when it is not the server's own
    ("a", "b", None),
    ("a", "c", None),
    ("c", "a", None),
    ("a", "world", None),
    ("a", "node1", None),
    ("node1", "a", None),
    ("a", "node2", None),
    ("a", "c", (VIP, 80)),
    ("a", "b", (VIP, 81)),
    ("world", "a", (NODE1.ip, NODE_PORT)),
]


@pytest.fixture(params=KINDS[:1])
def running(request: pytest.FixtureRequest, objects: Path, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.build()
        made.start(objects, mode="ebpf", attach=request.param)
        for match, backend in (
            (f"ip daddr {VIP} tcp dport 80", "c"),
            (f"ip daddr {VIP} tcp dport 81", "b"),
            (f"ip daddr {NODE1.ip} tcp dport {NODE_PORT}", "a"),
        ):
            made.nft("node1", f"add rule ip proxy prerouting {match} dnat to {ADDRESSES[backend]}:{PORT}\n")
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def conversations(cluster: Cluster) -> Iterator[list[Chatter]]:
    """All connections at once, each asking and answering without pause."""
    with contextlib.ExitStack() as stack:
        talks = []
        servers = {
            name: stack.enter_context(traffic.listening(cluster, name, PORT)) for name in cluster.places
        }
        for client, server, target in CONNECTIONS:
            where = target or (ADDRESSES[server], PORT)
            ends = stack.enter_context(traffic.connected(cluster, client, servers[server], where))
            talks.append(stack.enter_context(Chatter(*ends)))
        yield talks


def progress(talks: list[Chatter], rounds: int) -> None:
    """Wait until every connection got ``rounds`` further answers."""
    goals = [talk.rounds + rounds for talk in talks]
    deadline = time.monotonic() + 15
    while any(talk.rounds < goal for talk, goal in zip(talks, goals, strict=True)):
        stuck = [CONNECTIONS[i] for i, talk in enumerate(talks) if talk.rounds < goals[i]]
        failed = [talk.failure for talk in talks if talk.failure is not None]
        assert not failed and time.monotonic() < deadline, f"no progress on {stuck}: {failed}"
        time.sleep(0.02)


@pytest.mark.parametrize("running", KINDS, indirect=True)
def test_every_connection_survives_every_switch(running: Cluster) -> None:
    with conversations(running) as talks:
        progress(talks, 20)
        for mode in ("legacy", "ebpf", "legacy", "ebpf"):
            running.switch(mode)
            progress(talks, 20)
    for node in ("node1", "node2"):
        assert set(running.drops(node)) <= {139, 176}, "no packet was lost in a switch"


@pytest.mark.parametrize("running", KINDS, indirect=True)
def test_netfilter_proves_the_mode(running: Cluster) -> None:
    with conversations(running) as talks:
        del talks[-3:]  # translated connections go through the stack in both modes
        for mode, silent in (("ebpf", True), ("legacy", False), ("ebpf", True)):
            running.switch(mode)
            progress(talks, 20)
            before = running.forwards("node1", 2)[0]
            progress(talks, 20)
            assert (running.forwards("node1", 2)[0] == before) is silent


@pytest.mark.parametrize("running", KINDS, indirect=True)
def test_connections_survive_reloads_of_the_same_mode(running: Cluster, objects: Path) -> None:
    with conversations(running) as talks:
        progress(talks, 20)
        for rate in (10, 20, 30):
            running.reload(objects, event_rate=rate)
            progress(talks, 20)


def test_a_translated_connection_survives_new_revisions(running: Cluster) -> None:
    with conversations(running) as talks:
        for revision in range(2, 12):
            for node in ("node1", "node2"):
                slots = running.datapaths[node].map("podwire_slots")
                for slot in range(3):
                    slots.set(slot, {"revision": revision})
            progress(talks, 5)


def test_connections_survive_a_forgotten_conntrack_table(running: Cluster) -> None:
    """A table that overflowed, or was made anew: netfilter still knows what it translates."""
    with conversations(running) as talks:
        progress(talks, 10)
        for node in ("node1", "node2", "node1"):
            running.datapaths[node].map("podwire_ct4").clear()
            progress(talks, 10)


def drop_invalid(cluster: Cluster) -> None:
    """What kube-proxy does to forwarded packets that netfilter calls invalid."""
    for node in ("node1", "node2"):
        cluster.nft(
            node,
            "add chain ip proxy judge { type filter hook forward priority 0; }\n"
            "add rule ip proxy judge ct state invalid drop\n",
        )


PAIRS = pytest.mark.parametrize("pair", [("a", "b"), ("a", "c"), ("c", "a"), ("a", "world")], ids="-".join)


@PAIRS
@pytest.mark.parametrize("first", ["client", "server"])
def test_goodbyes_cross_a_switch(running: Cluster, pair: tuple[str, str], first: str) -> None:
    """Legacy host routing meets connections that netfilter has never seen. It takes their data for the middle
    of a connection, but calls a FIN without one invalid, and kube-proxy drops what is invalid: the end that
    said goodbye would repeat it for minutes, and whoever waits for it (netperf's TCP_CRR did) would hang."""
    client, server = pair
    drop_invalid(running)
    with (
        traffic.listening(running, server, PORT) as door,
        traffic.connected(running, client, door, (ADDRESSES[server], PORT)) as ends,
    ):
        running.switch("legacy")
        leaver, stayer = ends if first == "client" else reversed(ends)
        leaver.shutdown(socket.SHUT_WR)
        assert stayer.recv(1) == b"", "the goodbye arrived"
        stayer.shutdown(socket.SHUT_WR)
        assert leaver.recv(1) == b"", "and was answered"


@PAIRS
def test_bulk_between_two_legacy_periods(running: Cluster, pair: tuple[str, str]) -> None:
    """netfilter keeps the sequence window of a connection that it has met, and does not see it move while
    eBPF carries the packets: those of the second legacy period lie far outside of it."""
    client, server = pair
    drop_invalid(running)
    running.switch("legacy")
    with (
        traffic.listening(running, server, PORT) as door,
        traffic.connected(running, client, door, (ADDRESSES[server], PORT)) as ends,
    ):
        for mode, size in (("legacy", 100_000), ("ebpf", MANY_WINDOWS), ("legacy", MANY_WINDOWS)):
            running.switch(mode)
            before = running.forwarded_by_netfilter("node1")
            traffic.transfer(ends[0], ends[1], size)
            traffic.transfer(ends[1], ends[0], size)
            seen = running.forwarded_by_netfilter("node1") - before
            assert (seen > 0) is (mode == "legacy")
        for end, other in (ends, reversed(ends)):
            end.shutdown(socket.SHUT_WR)
            assert other.recv(1) == b"", "the goodbye arrived"


def test_a_reset_crosses_after_half_the_sequence_space(running: Cluster) -> None:
    """Beyond 2 GiB what comes later counts as earlier, and netfilter calls a reset from the past invalid even
    when it is to be liberal: the other end would wait for minutes."""
    drop_invalid(running)
    running.switch("legacy")
    with (
        traffic.listening(running, "b", PORT) as door,
        traffic.connected(running, "a", door, (ADDRESSES["b"], PORT)) as (leaver, stayer),
    ):
        traffic.transfer(leaver, stayer, 1000)
        traffic.transfer(stayer, leaver, 1000)
        running.switch("ebpf")
        traffic.pour(leaver, stayer, HALF_SEQUENCE_SPACE + MANY_WINDOWS)
        running.switch("legacy")
        traffic.transfer(leaver, stayer, 1000)
        traffic.transfer(stayer, leaver, 1000)
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaver.close()
        with pytest.raises(ConnectionResetError):
            stayer.recv(1)


def test_netfilter_is_lenient_from_the_first_legacy_period_until_removal(running: Cluster) -> None:
    def values(node: str) -> list[str]:
        return [running.get(node, name) for name in LENIENT]

    def apply(node: str) -> list[str]:
        with running.inside(node):
            return running.datapaths[node].reapply().steps

    assert values("node1") == ["0", "0"], "a node that was never in legacy mode is left alone"
    running.set("node2", LENIENT[0], "1")  # its administrator's wish
    running.switch("legacy")
    assert values("node1") == values("node2") == ["1", "1"]
    assert apply("node1") == []
    running.set("node1", LENIENT[0], "0")
    assert apply("node1") == [f"set {LENIENT[0].replace('/', '.')} to 1"]
    running.switch("ebpf")
    assert values("node1") == ["1", "1"], "the stack still forwards odd packets"
    for node, kept in (("node1", ["0", "0"]), ("node2", ["1", "0"])):
        with running.inside(node):
            running.datapaths[node].remove()
        assert values(node) == kept
