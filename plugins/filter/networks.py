# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters that the role podwire.ebpf.validate uses to check addresses before anything is touched."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def cidr_problem(value: Any) -> str:
    """Say what is wrong with an IPv4 prefix, or return an empty string when it is fine."""
    try:
        network = ipaddress.ip_network(str(value), strict=True)
    except ValueError as error:
        return str(error)
    if network.version != 4:
        return f"{value} is not IPv4, the only family that podwire carries yet"
    return ""


def overlaps(named: Mapping[str, Any]) -> list[str]:
    """Name every pair of prefixes that overlap.

    ``named`` maps a description to a prefix or an address. Values that are not addresses are left out: saying
    so is the task of ``cidr_problem``. Pairs are reported in the order of the mapping.
    """
    networks = []
    for name, value in named.items():
        try:
            networks.append((name, ipaddress.ip_network(str(value), strict=False)))
        except ValueError:
            continue
    return [
        f"{first} ({one}) overlaps {second} ({other})"
        for index, (first, one) in enumerate(networks)
        for second, other in networks[index + 1 :]
        if one.version == other.version and one.overlaps(other)
    ]


# Devices that a pod network made: their addresses are expected to lie within the pods' prefix.
POD_NETWORK_DEVICES = re.compile(r"^(lo$|lxc|cali|vxlan|cni|veth|docker|flannel|podwire|cilium)")


def _addresses(facts: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Every IPv4 address in Ansible's facts, with its device's name.

    Facts spell a device with underscores where its name has other characters.
    """
    for name in facts.get("interfaces", []):
        device = facts.get(re.sub(r"[^A-Za-z0-9_]", "_", name), {})
        if isinstance(device, Mapping):
            first = [device["ipv4"]] if device.get("ipv4") else []
            for address in first + list(device.get("ipv4_secondaries", [])):
                yield name, address


def node_networks(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the IPv4 networks that a node is on, as description to prefix, from its Ansible facts.

    Devices of pod networks are left out.
    """
    networks = {}
    for name, address in _addresses(facts):
        if not POD_NETWORK_DEVICES.match(name):
            prefix = f"{address['address']}/{address.get('netmask') or address.get('prefix') or 32}"
            network = ipaddress.ip_network(prefix, strict=False)
            networks[f"the network of {address['address']} on {name}"] = str(network)
    return networks


def device_of(facts: Mapping[str, Any], address: str) -> str:
    """Return the name of the device that has an IPv4 address, from a node's Ansible facts.

    Raises ``AnsibleFilterError`` naming the addresses that the node has when it is none of them.
    """
    known = {entry["address"]: name for name, entry in _addresses(facts)}
    wanted = str(address).strip()
    if wanted not in known:
        raise AnsibleFilterError(
            f"no device of {facts.get('hostname', 'the node')} has the address {wanted}; it has "
            f"{', '.join(sorted(known)) or 'none'}. Set the host variable podwire_node_ip to the "
            "address by which the other nodes reach it."
        )
    return known[wanted]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "cidr_problem": cidr_problem,
            "device_of": device_of,
            "node_networks": node_networks,
            "overlaps": overlaps,
        }
