"""A small nftables table that counts pod packets in netfilter's forward hook.

It decides nothing. It is the witness for the host-routing mode: with eBPF host routing the counter stands
still, because pod traffic does not pass the host's stack."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

TABLE = "podwire"
COUNTER = "forward_pods"
_TIMEOUT = 10


class FirewallError(Exception):
    """nftables cannot be used. The message says why."""


def ruleset(cidrs: Sequence[str]) -> str:
    """Input for ``nft -f -`` that (re)creates the table. The first line makes the second one safe."""
    ranges = ", ".join(cidrs)
    rules = (
        f"    ip saddr {{ {ranges} }} counter name {COUNTER} return\n"
        f"    ip daddr {{ {ranges} }} counter name {COUNTER}\n"
        if cidrs
        else ""
    )
    return (
        f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n"
        f"table inet {TABLE} {{\n  counter {COUNTER} {{}}\n"
        f"  chain forward {{\n    type filter hook forward priority -300; policy accept;\n{rules}  }}\n}}\n"
    )


def install(cidrs: Sequence[str]) -> None:
    """Create the table for these pod ranges, counting from zero. Raises FirewallError."""
    _nft(["-f", "-"], ruleset(cidrs))


def forward_packets() -> int:
    """Packets from or to pods that passed the forward hook since ``install``. Raises FirewallError."""
    answer = json.loads(_nft(["-j", "list", "counter", "inet", TABLE, COUNTER]))
    for item in answer.get("nftables", ()):
        if "counter" in item:
            return int(item["counter"]["packets"])
    raise FirewallError(f"nft shows no counter {COUNTER}")


def remove() -> None:
    """Delete the table; one that is not there is fine. Raises FirewallError."""
    _nft(["-f", "-"], f"table inet {TABLE} {{}}\ndelete table inet {TABLE}\n")


def _nft(arguments: list[str], text: str | None = None) -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise FirewallError("nft is not installed: install the package nftables") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirewallError(f"nft: {error}") from error
    if done.returncode != 0:
        raise FirewallError(f"nft: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
