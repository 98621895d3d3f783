"""The agent follows the addresses and routes of the node's devices."""

from __future__ import annotations

import json

from podwire.agent.tables import MasqueradeTable
from tests.integration.agent.lab import Node, eventually

FIRST, SECOND, GATEWAY = "198.18.0.1", "198.18.7.1", "198.18.7.254"


def masqueraded(node: Node) -> dict[str, str]:
    return MasqueradeTable(lambda: node.datapath.map("podwire_masquerade4")).read()


def test_devices_are_left_with_the_addresses_they_have_now(node: Node) -> None:
    assert masqueraded(node) == {}, "one device, one address"
    node.exec("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1p")
    for name in ("eth1p", "eth1"):
        node.exec("ip", "link", "set", name, "up")
    index = str(json.loads(node.exec("ip", "-j", "link", "show", "eth1").stdout)[0]["ifindex"])

    node.exec("ip", "addr", "add", f"{FIRST}/24", "dev", "eth1")
    node.exec("ip", "addr", "add", f"{SECOND}/24", "dev", "eth1")
    eventually(lambda: masqueraded(node) == {index: FIRST})
    route = ("default", "via", GATEWAY, "dev", "eth1", "metric", "100")
    node.exec("ip", "route", "add", *route)
    eventually(lambda: masqueraded(node) == {index: SECOND})
    node.exec(
        "ip", "route", "change", "default", "via", GATEWAY, "dev", "eth1", "metric", "100", "src", FIRST
    )
    eventually(lambda: masqueraded(node) == {index: FIRST})
    node.exec("ip", "route", "del", *route)
    hops = ("nexthop", "via", "10.200.0.254", "dev", "eth0", "nexthop", "via", GATEWAY, "dev", "eth1")
    node.exec("ip", "route", "add", "default", "metric", "50", *hops)
    eventually(lambda: masqueraded(node) == {index: SECOND})
    node.exec("ip", "route", "del", "default", "metric", "50")
    eventually(lambda: masqueraded(node) == {index: FIRST})
    node.exec("ip", "addr", "del", f"{FIRST}/24", "dev", "eth1")
    eventually(lambda: masqueraded(node) == {index: SECOND})
    node.exec("ip", "link", "del", "eth1")
    eventually(lambda: masqueraded(node) == {})
