"""``podwire bpf``: what the datapath's maps and programs hold, read from the kernel."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from podwire.datapath import Datapath
from podwire.datapath.present import entry, names_for, names_of

from .output import output_option, print_json
from .rows import errors, print_rows

Rows = list[dict[str, Any]]
FIRST_LOCAL = 1 << 24
"""Identities from here on are shown in hexadecimal: prefixes of this node, classes of one map."""


@click.group("bpf")
def bpf() -> None:
    """Show the contents of the datapath's maps and its programs."""


def read_map(name: str) -> Rows:
    """All entries of a pinned map, as people read them."""
    found = Datapath().map(name)
    names, now = names_for(name, found.btf), time.monotonic_ns()
    return [entry(key, value, names, now) for key, value in found.items()]


def read_slots() -> Rows:
    """Slots that were ever used."""
    rows = [{"slot": row["key"], "revision": row["revision"]} for row in read_map("podwire_slots")]
    return [row for row in rows if row["revision"]]


def read_metrics() -> Rows:
    """Drops by reason and direction, then forwarded packets by kind."""
    drops = [{"kind": "drop", **row} for row in read_map("podwire_metrics")]
    found = Datapath().map("podwire_forwards")
    kinds = names_of(found.btf, "podwire_forward", "PODWIRE_FORWARD_")
    forwards = [
        {"kind": "forward", "reason": kinds.get(row.pop("key"), "?"), "direction": None, **row}
        for row in read_map("podwire_forwards")
    ]
    return [*drops, *(row for row in forwards if row["reason"] != "max")]


def read_policies() -> Rows:
    """Entries of every policy map, by policy number. What a rule is called only the agent knows."""
    from podwire.agent.policy_maps import PolicyMaps
    from podwire.agent.policy_report import DIRECTIONS, PROTOCOLS, map_ports
    from podwire.agent.policy_tables import Block, decode
    from podwire.policy.decide import match_of
    from podwire.policy.judgement import MATCHES

    rows: Rows = []
    for number, entries in PolicyMaps(Datapath().map).all().items():
        for item in decode(entries):
            if isinstance(item, Block):
                rows.append(
                    {
                        "policy": number,
                        "direction": DIRECTIONS[item.key.direction],
                        "peer": f"{item.key.prefix} is class {item.identity:#x}",
                        "protocol": "",
                        "ports": "",
                        "verdict": "",
                        "match": "",
                        "rule": "",
                    }
                )
                continue
            key, value = item
            rows.append(
                {
                    "policy": number,
                    "direction": DIRECTIONS[key.direction],
                    "peer": str(key.identity) if key.identity < FIRST_LOCAL else f"{key.identity:#x}",
                    "protocol": PROTOCOLS.get(key.protocol, str(key.protocol)),
                    "ports": map_ports(key),
                    "verdict": "deny" if value.deny else "allow",
                    "match": MATCHES[match_of(key)],
                    "rule": value.rule,
                }
            )
    return rows


def read_programs() -> Rows:
    """The pinned programs."""
    return [asdict(program) for program in Datapath().status().programs]


_LISTS: dict[str, tuple[Callable[[], Rows], str]] = {
    "endpoint": (lambda: read_map("podwire_endpoints4"), "Local addresses and the interfaces behind them"),
    "ct": (lambda: read_map("podwire_ct4"), "Connections: one entry per direction"),
    "nat": (lambda: read_map("podwire_nat4"), "Masqueraded flows: one entry per direction"),
    "masquerade": (
        lambda: read_map("podwire_masquerade4"),
        "Devices that masqueraded packets leave with another address than the node's",
    ),
    "ipcache": (lambda: read_map("podwire_ipcache4"), "Prefixes: identity, node and flags"),
    "metrics": (read_metrics, "Dropped and forwarded packets, all CPUs together"),
    "frag": (lambda: read_map("podwire_frags4"), "Ports of datagrams that arrive in fragments"),
    "service": (lambda: read_map("podwire_services4"), "Frontends of services and their lists of backends"),
    "backend": (lambda: read_map("podwire_backends4"), "Backends by list and index"),
    "affinity": (lambda: read_map("podwire_affinity4"), "Clients and the backends they must come back to"),
    "socket": (lambda: read_map("podwire_sock_reverse4"), "Sockets: backends, and the frontends asked for"),
    "policy": (read_policies, "Entries of policy maps; peer 0 is everybody"),
    "slot": (read_slots, "Revisions of endpoints; slot 0 is everything else"),
    "program": (read_programs, "Loaded programs"),
}


def _add(name: str, read: Callable[[], Rows], title: str) -> None:
    @bpf.group(name, help=title + ".")
    def group() -> None:
        pass

    @group.command("list", help=title + ".")
    @output_option
    def list_(output: str) -> None:
        with errors(output):
            rows = read()
            if output == "json":
                print_json(rows)
            else:
                print_rows(title, rows)


for _name, (_read, _title) in _LISTS.items():
    _add(_name, _read, _title)
