"""What of a host's netfilter is kube-proxy's, and waiting for it to go."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kube_proxy import (
    CHAINS,
    nft_tables,
    serves,
    wait_for,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_traces import (
    DefaultNetwork,
    restore_script,
)

SAVED = """*nat
:PREROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A POSTROUTING -m comment --comment "cali:abc" -j ACCEPT
-A KUBE-SEP-A -s 10.1.0.5/32 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d 10.152.183.1/32 -p tcp -m tcp --dport 443 -j KUBE-SVC-A
-A KUBE-SVC-A -j KUBE-SEP-A
COMMIT
"""


def test_its_chains_go_and_kubelets_stay():
    script, removed = restore_script(SAVED, DefaultNetwork(), CHAINS)
    assert removed == [
        f"nat/KUBE-{name}" for name in ("NODEPORTS", "PROXY-CANARY", "SEP-A", "SERVICES", "SVC-A")
    ]
    assert [line for line in script.splitlines() if line.startswith("-D")] == [
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    ]
    for kept in ("MARK-MASQ", "POSTROUTING", "KUBELET-CANARY", "cali:"):
        assert kept not in script


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], False),
        (["iptables-legacy mangle/KUBE-PROXY-CANARY", "iptables-nft nat/KUBE-SVC-A"], False),
        (["iptables-legacy nat/KUBE-SERVICES"], True),
        (["nft ip kube-proxy"], True),
    ],
)
def test_a_canary_alone_serves_nobody(found, expected):
    assert serves(found) is expected


def test_tables_of_the_nftables_mode():
    listed = "table inet podwire\ntable ip kube-proxy\ntable ip6 kube-proxy\ntable ip nat\n"
    assert nft_tables(listed) == ["ip kube-proxy", "ip6 kube-proxy"]
    assert nft_tables("") == []


def test_waiting_ends_when_it_is_done_or_late():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    looks = iter([["a"], ["a"], []])
    found, done = wait_for(lambda: next(looks), lambda seen: not seen, 10, clock=lambda: now[0], sleep=sleep)
    assert (found, done, now[0]) == ([], True, 1.0)
    found, done = wait_for(lambda: ["a"], lambda seen: not seen, 3, clock=lambda: now[0], sleep=sleep)
    assert (found, done, now[0]) == (["a"], False, 3.0)
