# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""From the options of the module ``datapath`` to the arguments of ``podwire datapath``, and back. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def apply_arguments(options: Mapping[str, Any], host_routing: str, *, check: bool) -> list[str]:
    """Arguments of ``podwire datapath apply``."""
    arguments = ["datapath", "apply", "--objects", options["objects"], "--node-ip", options["node_ip"]]
    for device in options["devices"]:
        arguments += ["--device", device]
    arguments += [
        "--host-routing", host_routing,
        "--nat-ports", f"{options['nat_port_min']}-{options['nat_port_max']}",
        "--mtu", str(options["mtu"]),
        "--masquerade" if options["masquerade"] else "--no-masquerade",
        "--event-rate", str(options["event_rate"]),
        "--attach", options["attach"],
        "--services" if options["services"] else "--no-services",
        "--node-ports", f"{options['node_port_min']}-{options['node_port_max']}",
        "--maglev-size", str(options["maglev_size"]),
        "--dsr" if options["dsr"] else "--no-dsr",
    ]  # fmt: skip
    for name, entries in sorted(options["map_entries"].items()):
        arguments += ["--map-entries", f"{name}={entries}"]
    return arguments + (["--check"] if check else [])


def wanted_mode(initial: str, status: Mapping[str, Any]) -> str:
    """A node that has a mode keeps it: it is changed at run time, by the module ``host_routing`` alone."""
    return str(status.get("requested") or initial)


def wanted_services(options: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether to translate services: those that are translated already stay so, others start on request."""
    on = bool((status.get("sockets") or {}).get("enabled"))
    return bool(options["services"] and (options["start_services"] or on))


def result_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The module's result, from what ``podwire datapath apply`` or ``remove`` answered."""
    facts = answer["facts"]
    return {
        "changed": answer["changed"],
        "steps": answer["steps"],
        "notes": answer["notes"],
        "mode": facts["mode"],
        "reason": facts["reason"],
        "attach": facts["attach"],
        "programs": facts["programs"],
        "maps": facts["maps"],
        "devices": facts["devices"],
        "sockets": facts["sockets"],
        "features": facts["features"],
        "diff": diff(answer["before"], answer["after"]),
    }


def foretold(state: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What check mode says of a node where the release or the objects are not installed yet.

    They would be by then; so all that can be said is that the datapath would be loaded from them.
    """
    present = state == "present"
    after = (
        {"installed": True, "objects": options["objects"], "devices": options["devices"]} if present else {}
    )
    return {
        "changed": present,
        "steps": [f"load and attach {Path(options['objects']).name}"] if present else [],
        "notes": [],
        "diff": diff({"installed": False}, after or {"installed": False}),
    }


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Both sides as Ansible shows them."""
    return {
        side: json.dumps(value, indent=2, sort_keys=True) + "\n"
        for side, value in (("before", before), ("after", after))
    }
