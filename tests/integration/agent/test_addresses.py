"""The agent follows the addresses and routes of the node's devices."""

from __future__ import annotations

import json

from podwire.agent.tables import MasqueradeTable
from tests.integration.agent.lab import Node, eventually


class Device:
    """A device with two addresses and a way out by a gateway next to the second one."""

    def __init__(self, node: Node, number: int) -> None:
        self.node = node
        self.name = f"eth{number}"
        self.first, self.second = f"198.18.{number}0.1", f"198.18.{number}7.1"
        self.gateway = f"198.18.{number}7.254"
        node.exec("ip", "link", "add", self.name, "type", "veth", "peer", "name", f"{self.name}p")
        for name in (f"{self.name}p", self.name):
            node.exec("ip", "link", "set", name, "up")
        for address in (self.first, self.second):
            node.exec("ip", "addr", "add", f"{address}/24", "dev", self.name)
        found = json.loads(node.exec("ip", "-j", "link", "show", self.name).stdout)
        self.index = str(found[0]["ifindex"])
        self.metric = str(100 + number)

    def route(self, action: str, *more: str) -> None:
        way = ("default", "via", self.gateway, "dev", self.name, "metric", self.metric)
        self.node.exec("ip", "route", action, *way, *more)


def masqueraded(node: Node) -> dict[str, str]:
    return MasqueradeTable(lambda: node.datapath.map("podwire_masquerade4")).read()


def test_devices_are_left_with_the_addresses_they_have_now(node: Node) -> None:
    """The agent looks every few seconds at most, so the devices change together."""
    assert masqueraded(node) == {}, "one device, one address"
    plain, routed, told, shared, poor = devices = [Device(node, number) for number in range(1, 6)]
    routed.route("add")
    told.route("add")
    hops = (("10.200.0.254", "eth0"), (shared.gateway, shared.name))
    ways = [word for via, name in hops for word in ("nexthop", "via", via, "dev", name)]
    node.exec("ip", "route", "add", "default", "metric", "50", *ways)
    expected = {
        plain.index: plain.first,
        routed.index: routed.second,
        told.index: told.second,
        shared.index: shared.second,
        poor.index: poor.first,
    }
    eventually(lambda: masqueraded(node) == expected)

    plain.route("add")
    routed.route("del")
    told.route("change", "src", told.first)
    node.exec("ip", "route", "del", "default", "metric", "50")
    node.exec("ip", "addr", "del", f"{poor.first}/24", "dev", poor.name)
    expected = {
        plain.index: plain.second,
        routed.index: routed.first,
        told.index: told.first,
        shared.index: shared.first,
        poor.index: poor.second,
    }
    eventually(lambda: masqueraded(node) == expected)

    for device in devices:
        node.exec("ip", "link", "del", device.name)
    eventually(lambda: masqueraded(node) == {})
