"""IPv4 routes of the main table that belong to podwire, told apart from others by their protocol number."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from podwire.net.links import SCOPE_LINK
from podwire.net.netlink import NetlinkError, describe, is_absent, netlink
from podwire.net.values import Address4, DefaultRoute4, Route4

PROTOCOL = 112
"""Routing protocol number of our routes (``ip route show proto 112``); not used by the common routing
daemons."""
MAIN_TABLE = 254
ANY = str(ipaddress.IPv4Address(0))
_SECONDARY = 1
_UNICAST = 1


class RouteTable:
    """The reconciler's view of our routes: destination prefix -> route."""

    name = "routes"

    def read(self) -> dict[str, Route4]:
        found: dict[str, Route4] = {}
        for message in netlink().get_routes(family=2, table=MAIN_TABLE):
            if message["proto"] == PROTOCOL and message["table"] in (0, MAIN_TABLE):
                prefix = f"{message.get('dst') or ANY}/{message['dst_len']}"
                found[prefix] = Route4(
                    int(message.get("oif") or 0),
                    gateway=message.get("gateway"),
                    source=message.get("prefsrc"),
                )
        return found

    def upsert(self, entries: Mapping[str, Route4]) -> dict[str, str]:
        failures: dict[str, str] = {}
        ipr = netlink()
        for prefix, route in entries.items():
            try:
                ipr.route("replace", **_arguments(prefix, route))
            except NetlinkError as error:
                failures[prefix] = f"route {prefix}{_via(route)}: {describe(error)}"
        return failures

    def delete(self, keys: Iterable[str]) -> dict[str, str]:
        failures: dict[str, str] = {}
        ipr = netlink()
        for prefix in keys:
            try:
                ipr.route("del", dst=prefix, proto=PROTOCOL, table=MAIN_TABLE)
            except NetlinkError as error:
                if not is_absent(error):
                    failures[prefix] = f"remove route {prefix}: {describe(error)}"
        return failures


def _via(route: Route4) -> str:
    return f" via {route.gateway}" if route.gateway else ""


def _arguments(prefix: str, route: Route4) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "dst": prefix, "oif": route.ifindex, "proto": PROTOCOL, "table": MAIN_TABLE,
    }  # fmt: skip
    if route.gateway:
        arguments["gateway"] = route.gateway
    else:
        arguments["scope"] = SCOPE_LINK
    if route.source:
        arguments["prefsrc"] = route.source
    return arguments


def host_addresses() -> list[Address4]:
    """IPv4 addresses of this node, without loopback's and link-local ones. Raises NetlinkError."""
    found: list[Address4] = []
    for message in netlink().get_addr(family=2):
        address = str(message.get("local") or message.get("address"))
        parsed = ipaddress.IPv4Address(address)
        if not parsed.is_loopback and not parsed.is_link_local:
            found.append(
                Address4(
                    int(message["index"]),
                    address,
                    int(message["prefixlen"]),
                    secondary=bool(message["flags"] & _SECONDARY),
                    universe=message["scope"] == 0,
                )
            )
    return found


def default_routes() -> list[DefaultRoute4]:
    """Default routes of the main table, one for each next hop. Raises NetlinkError."""
    found: list[DefaultRoute4] = []
    for message in netlink().get_routes(family=2, table=MAIN_TABLE):
        if message["dst_len"] or message["type"] != _UNICAST or message["table"] not in (0, MAIN_TABLE):
            continue
        source, metric = message.get("prefsrc"), int(message.get("priority") or 0)
        for hop in message.get("multipath") or (message,):
            ifindex = hop["oif"] if "oif" in hop.keys() else message.get("oif")  # noqa: SIM118
            found.append(DefaultRoute4(int(ifindex or 0), hop.get("gateway"), source, metric))
    return found
