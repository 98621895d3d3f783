"""What the benchmark of services makes of objects and figures."""

from __future__ import annotations

import ipaddress
from typing import Any

from benchmarks.services.__main__ import BACKENDS, SERVICE_CIDR, filling, summary
from podwire.service import parse


def test_the_objects_are_services_with_endpoints_of_their_own() -> None:
    objects = list(filling(0, 10_000))
    services = [parse.service(named(value)) for path, value in objects if path.endswith("/services")]
    slices = [parse.endpoint_slice(named(value)) for path, value in objects if "endpointslices" in path]
    assert not any(item.problems for item in (*services, *slices))
    addresses = {ipaddress.IPv4Address(service.cluster_address) for service in services}
    assert len(addresses) == 10_000
    assert all(address in ipaddress.IPv4Network(SERVICE_CIDR) for address in addresses)
    # The measured services' own addresses.
    assert not any(address in ipaddress.IPv4Network("10.202.250.0/24") for address in addresses)
    assert {item.service for item in slices} == {service.name.name for service in services}
    backends = {endpoint.address for item in slices for endpoint in item.endpoints}
    assert len(backends) == 10_000 * BACKENDS
    assert not any(
        ipaddress.IPv4Address(address) in ipaddress.IPv4Network("10.201.0.0/16") for address in backends
    )


def named(value: dict[str, Any]) -> dict[str, Any]:
    """The object as the API gives it back."""
    return {**value, "metadata": {**value["metadata"], "namespace": "bench"}}


def test_many_services_are_compared_with_few_turn_by_turn() -> None:
    """A busy minute slows both; only the ratio within a turn says anything."""
    figures = {
        "podwire 10": {"connect_us": [20.0, 40.0, 20.0]},
        "kube-proxy 10": {"connect_us": [1.0, 1.0, 1.0]},
        "podwire 1000": {"connect_us": [21.0, 42.0, 90.0], "seconds_to_program": 3.0, "resident_mib": 90.0},
    }
    result = summary(figures, [10, 1000])
    assert result["connect_ratio"] == 1.05
    assert (result["services"], result["seconds_to_program"], result["resident_mib"]) == (1000, 3.0, 90.0)
