"""Taking kube-proxy's rules off a host: both flavours of iptables, and nftables."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import microk8s_traces
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kube_proxy import Rules, serves

DIRECTORIES = [Path("/usr/sbin"), Path("/sbin")]
SETUP = """
set -e
for t in iptables-legacy iptables-nft; do
  $t -t nat -N KUBE-SERVICES; $t -t nat -A PREROUTING -j KUBE-SERVICES; $t -t nat -A OUTPUT -j KUBE-SERVICES
  $t -t nat -N KUBE-SVC-A; $t -t nat -A KUBE-SERVICES -d 192.0.2.9 -j KUBE-SVC-A
  $t -t nat -N KUBE-POSTROUTING; $t -t nat -A POSTROUTING -j KUBE-POSTROUTING
  $t -t mangle -N KUBE-PROXY-CANARY
  $t -N KUBE-FORWARD; $t -A FORWARD -j KUBE-FORWARD
  $t -A FORWARD -s 192.0.2.0/24 -j ACCEPT
done
nft add table ip kube-proxy
nft add table inet other
"""


@pytest.fixture
def rules(monkeypatch):
    """kube-proxy's rules in a network namespace of its own."""
    assert os.geteuid() == 0, "this test makes a network namespace: run it as root"
    name = f"mkkp-{uuid.uuid4().hex[:6]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    inside = ["ip", "netns", "exec", name]
    subprocess.run([*inside, "sh", "-c", SETUP], check=True)

    class Inside(Rules):
        def _run(self, *command, stdin=None):
            return super()._run("/usr/sbin/ip", *inside[1:], *command, stdin=stdin)

    monkeypatch.setattr(microk8s_traces, "_content", lambda path: "nat\nfilter\nmangle\n")
    yield Inside(DIRECTORIES)
    subprocess.run(["ip", "netns", "del", name], check=True)


def test_all_of_it_goes_and_the_rest_stays(rules):
    found = rules.found()
    assert serves(found)
    assert {
        f"{flavour} {chain}"
        for flavour in ("iptables-legacy", "iptables-nft")
        for chain in (
            "nat/KUBE-SERVICES",
            "nat/KUBE-SVC-A",
            "mangle/KUBE-PROXY-CANARY",
            "filter/KUBE-FORWARD",
        )
    } | {"nft ip kube-proxy"} == set(found)
    assert sorted(rules.remove()) == sorted(found)
    assert rules.found() == []
    assert rules.remove() == []
    for flavour in ("legacy", "nft"):
        left = rules._run(f"/usr/sbin/iptables-{flavour}-save")
        assert "-A POSTROUTING -j KUBE-POSTROUTING" in left
        assert "-A FORWARD -s 192.0.2.0/24 -j ACCEPT" in left
    assert "table inet other" in rules._run("/usr/sbin/nft", "list", "tables")
