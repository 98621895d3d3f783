"""Pods come and go on one node."""

from __future__ import annotations

from .lab import Node


def test_pod_gets_an_address_and_reaches_gateway_host_and_neighbour(node: Node) -> None:
    one, two = node.add("one"), node.add("two")
    assert one.address == "10.201.1.2"
    assert two.address == "10.201.1.3"
    assert one.ping(two.address)
    assert one.ping(node.address)
    assert node.exec("ping", "-n", "-c", "1", "-W", "1", one.address).returncode == 0
