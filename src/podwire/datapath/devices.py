"""Names and indexes of the network devices in the caller's network namespace."""

from __future__ import annotations

import socket

from .errors import DatapathError


def indexes(names: list[str]) -> dict[str, int]:
    """Interface indexes by name; DatapathError names the missing device and those that exist."""
    there = {name: index for index, name in socket.if_nameindex()}
    for name in names:
        if name not in there:
            raise DatapathError(
                f"device {name} does not exist on this node; it has {', '.join(there)}",
                "Set podwire_devices to the devices that carry the node's traffic.",
            )
    return {name: there[name] for name in names}


def device_name(ifindex: int) -> str:
    """The device's name, ``interface N`` when there is none of that index."""
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"


def find_index(name: str) -> int | None:
    """The device's index, None when there is no such device."""
    return next((index for index, other in socket.if_nameindex() if other == name), None)


def exists(ifindex: int) -> bool:
    """Is there a device of that index?"""
    return any(index == ifindex for index, _ in socket.if_nameindex())
