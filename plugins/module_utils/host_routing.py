# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Prove a host-routing mode by counters: what pod packets did while the agent sent probes.

Two independent witnesses are compared. The datapath counts how packets leave its programs; netfilter counts
pod packets in the FORWARD hook. In mode ``ebpf`` packets are redirected and only translated ones (services)
may be in the hook; in mode ``legacy`` none is redirected and all of them are in the hook. Pure, apart from
``read_counters``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.agent_client import AgentClient

EBPF = "ebpf"
LEGACY = "legacy"


@dataclass(frozen=True)
class Counters:
    """Packets since some moment in the past. ``netfilter`` is None when the node cannot count there."""

    redirected: int
    """Left a program by a redirect, around the host's stack."""
    stack: int
    """Left a program, or reached a pod, through the stack and unchanged."""
    translated: int
    """Went through the stack because it translates or consumes them (services, the host itself)."""
    netfilter: int | None
    """Pod packets that passed netfilter's FORWARD hook."""

    def since(self, earlier: Counters) -> Counters:
        unknown = self.netfilter is None or earlier.netfilter is None
        return Counters(
            self.redirected - earlier.redirected,
            self.stack - earlier.stack,
            self.translated - earlier.translated,
            None if unknown else int(self.netfilter or 0) - int(earlier.netfilter or 0),
        )


@dataclass(frozen=True)
class Proof:
    """``proved`` is None when nothing was seen from which to tell."""

    proved: bool | None
    summary: str
    counters: Counters

    def to_dict(self) -> dict[str, Any]:
        return {
            "proved": self.proved,
            "summary": self.summary,
            "redirected_packets": self.counters.redirected,
            "stack_packets": self.counters.stack,
            "translated_packets": self.counters.translated,
            "netfilter_forward_packets": self.counters.netfilter,
        }


def counters_of(metrics: dict[str, Any], status: dict[str, Any]) -> Counters:
    """Pick the witnesses out of the agent's answers to ``GET /v1/metrics`` and ``GET /v1/status``."""

    def packets(*kinds: str) -> int:
        return sum(metrics.get("forwarded", {}).get(kind, {}).get("packets", 0) for kind in kinds)

    return Counters(
        redirected=packets("peer", "neigh"),
        stack=packets("stack", "pod_direct"),
        translated=packets("stack_translated", "pod_translated"),
        netfilter=status.get("netfilter_forward_packets"),
    )


def read_counters(client: AgentClient) -> Counters:
    """Read both witnesses now."""
    return counters_of(client.get("/v1/metrics")[1], client.get("/v1/status")[1])


def judge(mode: str, seen: Counters) -> Proof:
    """Say whether what was seen between two readings is what ``mode`` does."""
    if seen.netfilter is None:
        return Proof(None, "the node cannot count in netfilter's FORWARD hook (is nftables installed?)", seen)
    if mode == EBPF:
        return _judge_ebpf(seen, seen.netfilter)
    return _judge_legacy(seen, seen.netfilter)


def _judge_ebpf(seen: Counters, netfilter: int) -> Proof:
    if not seen.redirected and not seen.stack and not netfilter:
        return Proof(None, "no pod packet was forwarded: there is no other node with an agent to probe", seen)
    unexplained = max(0, netfilter - seen.translated)
    if seen.redirected and not seen.stack and not unexplained:
        return Proof(
            True,
            f"{seen.redirected} packets were redirected in eBPF, none passed netfilter's FORWARD hook"
            + (f" but {netfilter} of services" if netfilter else ""),
            seen,
        )
    return Proof(
        False,
        f"{seen.redirected} packets were redirected in eBPF, but {seen.stack} went through the stack and "
        f"{netfilter} passed netfilter's FORWARD hook ({seen.translated} of them may be services')",
        seen,
    )


def _judge_legacy(seen: Counters, netfilter: int) -> Proof:
    if not seen.redirected and not netfilter:
        return Proof(None, "no pod packet was forwarded: there is no other node with an agent to probe", seen)
    if seen.redirected:
        return Proof(
            False,
            f"{seen.redirected} packets were redirected in eBPF, {netfilter} passed netfilter's FORWARD hook",
            seen,
        )
    return Proof(
        True, f"{netfilter} packets passed netfilter's FORWARD hook, none was redirected in eBPF", seen
    )
