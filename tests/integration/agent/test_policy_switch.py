"""Policies that are replaced under traffic: what both sets allow is never dropped, what both refuse never
passes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import flood
from .lab import Network, Pod, eventually
from .policy_cluster import GATEWAY, PolicyCluster, cnp, knp, policy_cluster

SCRIPT = str(flood.__file__)
PAUSE = "0.001"
ALLOWED, REFUSED = 1000, 2000
NEVER_AGAIN = 1_000_000_000
"""Datagrams from one port: one connection for the whole time."""


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[PolicyCluster]:
    with policy_cluster(network, tmp_path) as cluster:
        yield cluster


class Stream:
    """Datagrams from one place to another, counted at both ends."""

    def __init__(self, receiver: Any, sender: Pod, address: str, port: int, new_every: int) -> None:
        self._receiver = _started(receiver, "count", str(port))
        self._sender = _started(sender.popen, "send", address, str(port), PAUSE, str(new_every))

    def end(self) -> tuple[int, int, list[int]]:
        """How many were sent, how many came, and numbers that are missing in between."""
        sent = int(_ended(self._sender))
        time.sleep(0.2)
        came, *missing = map(int, _ended(self._receiver).split())
        return sent, came, missing


def _started(popen: Any, *arguments: str) -> subprocess.Popen[str]:
    process: subprocess.Popen[str] = popen(sys.executable, SCRIPT, *arguments)
    assert process.stdout
    assert process.stdout.readline().strip() == "ready"
    return process


def _ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=20)
    return text.strip()


def ports(*numbers: int) -> list[dict[str, Any]]:
    return [{"ports": [{"port": str(number), "protocol": "UDP"} for number in numbers]}]


def peer(app: str) -> dict[str, Any]:
    return {"matchLabels": {"app": app}}


def kubernetes_ports(*numbers: int) -> list[dict[str, Any]]:
    return [{"port": number, "protocol": "UDP"} for number in numbers]


def ingress_sets() -> list[dict[str, Any]]:
    """Very different policies of the same name; all allow cli -> web on the ports of ALLOWED, none on those
    of REFUSED."""
    allowed, refused = ports(*range(ALLOWED, ALLOWED + 4)), ports(*range(REFUSED, REFUSED + 4))
    return [
        cnp("web", {"app": "web"}, ingress=[{"fromEndpoints": [peer("cli")], "toPorts": allowed}]),
        cnp("web", {"app": "web"}, ingress=[{"toPorts": [{"ports": [{"port": "1000", "endPort": 1999}]}]}]),
        cnp(
            "web",
            {"app": "web"},
            ingress=[{"fromEntities": ["all"]}],
            ingressDeny=[{"toPorts": [{"ports": [{"port": "2000", "endPort": 2999, "protocol": "ANY"}]}]}],
        ),
        cnp(
            "web",
            {"app": "web"},
            ingress=[{"fromEndpoints": [peer("cli")]}, {"fromEntities": ["world"], "toPorts": ports(7)}],
            ingressDeny=[{"fromEndpoints": [peer("cli")], "toPorts": refused}],
        ),
    ]


@pytest.mark.parametrize("mode", ["ebpf", "legacy"])
def test_nothing_is_lost_or_let_in_while_a_policy_is_replaced(cluster: PolicyCluster, mode: str) -> None:
    first, second = cluster.enforcing(mode), cluster.enforcing(mode)
    web = cluster.add_pod(first, "web", app="web")
    clients = [cluster.add_pod(first, "near", app="cli"), cluster.add_pod(second, "far", app="cli")]
    sets = ingress_sets()
    cluster.apply(sets[0])
    streams = [
        (base, Stream(web.popen, client, web.address, base + number, new_every))
        for base in (ALLOWED, REFUSED)
        for number, (client, new_every) in enumerate(
            (client, new_every) for client in clients for new_every in (5, NEVER_AGAIN)
        )
    ]
    for round_number in range(24):
        cluster.apply(sets[(round_number + 1) % len(sets)])
        # Labels of peers and policies of others change meanwhile, as they do.
        cluster.pod(second, "far", {"app": "cli"})
        cluster.apply(
            knp("other", {"app": "web"}, ingress=[{"ports": kubernetes_ports(1, round_number + 10)}])
        )
    outcome = [(base, *stream.end()) for base, stream in streams]
    for base, sent, came, missing in outcome:
        assert sent > 500
        if base == ALLOWED:
            assert (came, missing) == (sent, []), outcome
        else:
            assert came == 0, outcome


@pytest.mark.parametrize("mode", ["ebpf", "legacy"])
def test_an_address_is_never_refused_while_it_gets_a_narrower_identity(
    cluster: PolicyCluster, mode: str
) -> None:
    node = cluster.enforcing(mode)
    client = cluster.add_pod(node, "cli", app="cli")
    other = cluster.add_pod(node, "other", app="other")

    def to_cidr(name: str, subject: str, *prefixes: str) -> dict[str, Any]:
        return cnp(name, {"app": subject}, egress=[{"toCIDR": list(prefixes)}])

    # Another pod's policy has a wide prefix all the time: its traffic must not suffer from new ones either.
    cluster.apply(to_cidr("cli", "cli", "10.200.0.0/16"), to_cidr("other", "other", "10.0.0.0/8"))

    def in_switch(*command: str) -> subprocess.Popen[str]:
        inside = ("ip", "netns", "exec", cluster.network.switch, *command)
        return subprocess.Popen(inside, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    streams = [
        Stream(in_switch, client, GATEWAY, ALLOWED, 5),
        Stream(in_switch, client, GATEWAY, ALLOWED + 1, NEVER_AGAIN),
        Stream(in_switch, other, GATEWAY, ALLOWED + 2, 5),
    ]
    for length in (24, 25, 26, 27, 28, 29, 30, 31, 32, 23, 22, 17):
        cluster.apply(to_cidr("cli", "cli", f"{GATEWAY}/{length}"))
    for stream in streams:
        sent, came, missing = stream.end()
        assert sent > 100
        assert (came, missing) == (sent, [])


def test_established_connections_follow_the_new_policy_at_once(cluster: PolicyCluster) -> None:
    node = cluster.enforcing()
    web, client = cluster.add_pod(node, "web", app="web"), cluster.add_pod(node, "cli", app="cli")
    stream = Stream(web.popen, client, web.address, ALLOWED, NEVER_AGAIN)
    time.sleep(0.3)
    cluster.apply(cnp("web", {"app": "web"}, ingress=[{}]))
    last = node.get("/v1/drops")["last"]
    events = eventually(lambda: node.get(f"/v1/drops?since={last}&wait=2")["events"])
    assert events[0]["reason"] == 133
    time.sleep(1)
    sent, came, _ = stream.end()
    assert sent - came > 500
