"""Choose the address that pods' packets leave each device with. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from podwire.net.values import Address4, DefaultRoute4


def masquerade_addresses(
    addresses: Iterable[Address4], routes: Iterable[DefaultRoute4], node_ip: str
) -> dict[int, str]:
    """Interface index -> address, for devices that need another one than ``node_ip``.

    It is the address that the kernel itself would speak from by the device's default route: the route's
    own, else the primary one in the gateway's network, else the first primary one. A device that carries
    ``node_ip`` uses that; so does a device without an address, and neither is in the result."""
    by_device: dict[int, list[Address4]] = {}
    for address in addresses:
        by_device.setdefault(address.ifindex, []).append(address)
    ranked = sorted(routes, key=lambda route: route.metric)
    chosen: dict[int, str] = {}
    for ifindex, there in by_device.items():
        if any(address.address == node_ip for address in there):
            continue
        route = next((route for route in ranked if route.ifindex == ifindex), None)
        found = _source(there, route)
        if found is not None:
            chosen[ifindex] = found
    return chosen


def _source(there: list[Address4], route: DefaultRoute4 | None) -> str | None:
    usable = [address for address in there if address.universe]
    if route is not None and any(address.address == route.source for address in usable):
        return route.source
    primary = [address for address in usable if not address.secondary] or usable
    if route is not None and route.gateway is not None:
        gateway = ipaddress.IPv4Address(route.gateway)
        near = [address for address in primary if gateway in address.network]
        primary = near or primary
    return primary[0].address if primary else None
