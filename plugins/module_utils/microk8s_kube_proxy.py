# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's rules on a host, in whichever form it wrote them: both flavours of iptables, and nftables.

kube-proxy has no switch in MicroK8s. With ``--cleanup=true`` in its arguments it deletes its rules when
kubelite starts, returns, and stays away. It deletes through one iptables alone, and leaves its canaries: what
it did not find is removed here. Chains that kubelet makes for itself (``KUBE-FIREWALL``, ``KUBE-MARK-DROP``,
...) are not looked at; it would make them again within a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_traces import (
    DefaultNetwork,
    Host,
    restore_script,
)

#: The component's argument that makes it delete its rules and stay away.
CLEANUP = "cleanup"
#: How the names of its chains begin, in the iptables and ipvs modes of Kubernetes 1.20 to 1.36.
CHAINS = (
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-FORWARD",
    "KUBE-PROXY-",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-FW-",
    "KUBE-XLB-",
    "KUBE-EXT-",
)
#: The chain through which every service goes: without it there is no service.
ENTRY = "KUBE-SERVICES"
#: Its table in the nftables mode.
NFT_TABLE = "kube-proxy"
POLL_INTERVAL = 0.5


def nft_tables(listed: str) -> list[str]:
    """kube-proxy's tables (``ip kube-proxy``) in the output of ``nft list tables``."""
    tables = [line.removeprefix("table ").strip() for line in listed.splitlines()]
    return [table for table in tables if table.split()[1:] == [NFT_TABLE]]


class Rules(Host):
    """kube-proxy's rules on this host."""

    def found(self) -> list[str]:
        """Its chains and tables, as ``iptables-legacy nat/KUBE-SERVICES`` or ``nft ip kube-proxy``."""
        return [name for _, _, names in self._iptables() for name in names] + [
            f"nft {table}" for table in self._nft_tables()
        ]

    def remove(self) -> list[str]:
        """Remove what there is; returns what that was."""
        removed: list[str] = []
        for restore, script, names in self._iptables():
            if script:
                self._run(restore, "--noflush", stdin=script)
                removed += names
        for table in self._nft_tables():
            self._run(str(self._tool("nft")), "delete", "table", *table.split())
            removed.append(f"nft {table}")
        return removed

    def _iptables(self) -> list[tuple[str, str, list[str]]]:
        """(program to restore with, its input that removes the rules, what they are)."""
        listed = []
        for save, restore in self._flavours():
            script, names = restore_script(self._run(save), DefaultNetwork(), CHAINS)
            flavour = Path(save).name.removesuffix("-save")
            listed.append((restore, script, [f"{flavour} {name}" for name in names]))
        return listed

    def _nft_tables(self) -> list[str]:
        tool = self._tool("nft")
        return nft_tables(self._run(tool, "list", "tables")) if tool else []


def serves(found: Sequence[str]) -> bool:
    """Whether these are the rules of a kube-proxy at work, not what one left behind."""
    return any(name.endswith(f"/{ENTRY}") or name.startswith("nft ") for name in found)


def wait_for(
    look: Callable[[], Sequence[str]],
    done: Callable[[Sequence[str]], bool],
    deadline: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Sequence[str], bool]:
    """Look until it is ``done`` or the time is up; returns what was seen last, and whether that was done."""
    while True:
        found = look()
        if done(found):
            return found, True
        if clock() >= deadline:
            return found, False
        sleep(POLL_INTERVAL)


def still_there(found: Sequence[str]) -> PodwireError:
    """kube-proxy was told to clean up, and its rules stay."""
    return PodwireError(
        f"kube-proxy has --{CLEANUP}=true, but its rules are still there: {', '.join(list(found)[:5])}",
        "See why it does not clean up: journalctl -u snap.microk8s.daemon-kubelite | grep -i proxy.",
        {"rules": list(found)},
    )


def not_there() -> PodwireError:
    """kube-proxy was let back, and makes no rules."""
    return PodwireError(
        "kube-proxy is on again, but it has made no rules for services",
        "See why: journalctl -u snap.microk8s.daemon-kubelite | grep -i proxy.",
    )
