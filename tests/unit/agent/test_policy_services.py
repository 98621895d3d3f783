"""Services as policies see them."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from podwire.agent.policy_services import ServiceTable, endpoint_slice, service
from podwire.policy.world import ServiceView


def slice_of(name: str, *addresses: Any, kind: str = "IPv4") -> dict[str, Any]:
    metadata = {"namespace": "default", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}}
    return {"metadata": metadata, "addressType": kind, "endpoints": [{"addresses": list(addresses)}]}


def test_addresses_count_where_no_pods_are_selected() -> None:
    table = ServiceTable()
    own = service({"metadata": {"labels": {"team": "red"}}, "spec": {"selector": {"app": "web"}}})
    table.take_services([("default/web", own), ("default/db", service({"metadata": {}, "spec": {}}))], True)
    assert not table.complete
    slices = [
        ("default/web-1", endpoint_slice(slice_of("web", "10.1.0.2"))),
        ("default/db-1", endpoint_slice(slice_of("db", "192.0.2.1", "no address", 7))),
        ("default/db-2", endpoint_slice(slice_of("db", "192.0.2.2"))),
        ("default/db-3", endpoint_slice(slice_of("db", "2001:db8::1", kind="IPv6"))),
        ("default/x-1", endpoint_slice({"metadata": {}})),
    ]
    table.take_slices(slices, True)
    assert table.complete
    both = frozenset({IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")})
    assert table.views() == (
        ServiceView("default", "db", {}, {}, both),
        ServiceView("default", "web", {"k8s:team": "red"}, {"app": "web"}),
    )


def test_what_is_gone_is_forgotten() -> None:
    table = ServiceTable()
    table.take_services([("default/db", service({}))], True)
    table.take_slices([("default/db-1", endpoint_slice(slice_of("db", "192.0.2.1")))], True)
    table.take_slices([("default/db-1", None)], True)
    assert table.views() == (ServiceView("default", "db"),)
    table.take_services([("default/db", None)], True)
    assert table.views() == ()


def test_numbers_for_addresses_are_no_addresses() -> None:
    assert not endpoint_slice(slice_of("db", True)).addresses
