"""The network that connects the nodes: a bridge on this machine, a cable (veth pair) to each container."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

from lab import locks
from lab.config import NETWORK, WORLD, Lab, host_number, mac_address, state_directory
from lab.errors import LabError
from lab.process import run

ALIAS = "podwire-lab:"


def links() -> list[dict[str, Any]]:
    """All links of this machine, as ``ip -json link`` tells them."""
    found: list[dict[str, Any]] = json.loads(run(["ip", "-json", "link", "show"]).stdout or "[]")
    return found


def links_of(name: str) -> list[str]:
    """Links that belong to the lab, recognised by their alias. Works without any state file."""
    return [link["ifname"] for link in links() if link.get("ifalias") == ALIAS + name]


def index_of(name: str) -> int | None:
    """The index of a lab whose bridge exists."""
    for link in links_of(name):
        if link.endswith("-br"):
            return int(link[2:-3])
    return None


def free_index(taken_names: Sequence[str], routes: Sequence[str]) -> int:
    """The first index whose links and addresses nothing uses. Pure."""
    networks = [ipaddress.ip_network(route, strict=False) for route in routes]
    for index in range(1, 255):
        subnet = ipaddress.ip_network(f"{NETWORK.network_address + (index << 8)}/24")
        if any(name.startswith(f"pw{index}-") for name in taken_names):
            continue
        if any(net.version == 4 and net.prefixlen and net.overlaps(subnet) for net in networks):
            continue
        return index
    raise LabError(
        f"no free network in {NETWORK} for another lab", "Remove labs that are not needed: make down"
    )


def _routes() -> list[str]:
    found = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]).stdout or "[]")
    return [route["dst"] for route in found if route["dst"] != "default" and "/" in route["dst"]]


def ensure_bridge(name: str, nodes: tuple[str, ...]) -> Lab:
    """Make the lab's bridge, or find it, and return the lab with the index it has from now on."""
    with locks.held(
        "lab-index",
        wait=60,
        busy="another lab has been setting up its network for a minute",
        hint="Try again",
    ):
        index = index_of(name)
        if index is None:
            index = free_index([link["ifname"] for link in links()], _routes())
            run(
                ["ip", "link", "add", f"pw{index}-br", "address", mac_address(index, 1), "type", "bridge"],
                what="making the lab's bridge",
                hint="The lab needs root and the kernel's bridge support",
            )
            run(["ip", "link", "set", f"pw{index}-br", "alias", ALIAS + name])
    lab = Lab(name=name, index=index, nodes=nodes)
    run(["ip", "addr", "replace", f"{lab.gateway}/24", "dev", lab.bridge])
    run(["ip", "link", "set", lab.bridge, "up"])
    return lab


def attach(lab: Lab, member: str, pid: int) -> None:
    """Give the container with first process ``pid`` its cable, address and default route.

    The world gets no default route: it can answer nodes, and nobody behind them.
    """
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]
    present = json.loads(run([*inside, "-json", "addr", "show"]).stdout)
    outer = lab.link(member)
    known = {link["ifname"]: link for link in links()}
    wired = (
        any(link["ifname"] == "eth0" for link in present) and known.get(outer, {}).get("master") == lab.bridge
    )
    if not wired:
        if outer in known:
            run(["ip", "link", "delete", outer])
        run(["ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0",
             "address", mac_address(lab.index, host_number(member)), "netns", str(pid)],
            what=f"laying the cable of {member}")  # fmt: skip
        run(["ip", "link", "set", outer, "alias", ALIAS + lab.name, "master", lab.bridge])
    run(["ip", "link", "set", outer, "up"])
    run([*inside, "addr", "replace", f"{lab.address(member)}/24", "dev", "eth0"])
    run([*inside, "link", "set", "lo", "up"])
    run([*inside, "link", "set", "eth0", "up"])
    if member != WORLD:
        run([*inside, "route", "replace", "default", "via", lab.gateway, "dev", "eth0"])


def remove(name: str) -> list[str]:
    """Remove the lab's links and with them its addresses and routes; returns what there was."""
    gone = links_of(name)
    for link in sorted(gone, key=lambda link: link.endswith("-br")):
        run(["ip", "link", "delete", link], check=False)
    left = links_of(name)
    if left:
        raise LabError(
            f"links {', '.join(left)} of lab {name} cannot be removed",
            f"See `ip link show`, then rm -r {state_directory(name)}",
        )
    return gone
