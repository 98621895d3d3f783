"""Host ports: ports of this node that lead to a pod, as the runtime asks for them in ``portMappings``.
Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from podwire.agent.model import Endpoint, PortMapping
from podwire.service.model import Backend, HostPort, Name, Protocol

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - what the runtime calls every address


def port_mappings(config: Mapping[str, Any]) -> tuple[PortMapping, ...]:
    """What a network configuration's ``runtimeConfig`` asks for. Mappings to IPv6 addresses are left out.

    Raises ValueError naming what makes no sense."""
    runtime = config.get("runtimeConfig")
    items = runtime.get("portMappings") if isinstance(runtime, Mapping) else None
    if items is None:
        return ()
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise ValueError("runtimeConfig.portMappings is not a list of objects")
    found = (_mapping(item) for item in items if item.get("hostPort"))
    return tuple(mapping for mapping in found if mapping is not None)


def _mapping(item: Mapping[str, Any]) -> PortMapping | None:
    protocol = str(item.get("protocol") or "tcp").upper()
    if protocol not in Protocol.__members__:
        known = ", ".join(known.name for known in Protocol)
        raise ValueError(f"portMappings: protocol {item.get('protocol')!r} is none of {known}")
    for name in ("hostPort", "containerPort"):
        value = item.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
            raise ValueError(f"portMappings: {name} is {value!r}, not a number from 1 to 65535")
    address = str(item.get("hostIP") or "")
    if address in _EVERYWHERE:
        address = ""
    else:
        try:
            if ipaddress.ip_address(address).version != 4:
                return None
        except ValueError as error:
            raise ValueError(f"portMappings: hostIP {address!r} is no address") from error
    return PortMapping(address, item["hostPort"], item["containerPort"], protocol)


def by_pod(endpoints: Iterable[Endpoint]) -> dict[Name, tuple[str, tuple[HostPort, ...]]]:
    """Age and host ports of every pod that has some. Of two sandboxes of one pod the newer one counts."""
    found: dict[Name, tuple[str, tuple[HostPort, ...]]] = {}
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.created):
        if endpoint.port_mappings:
            name = Name(endpoint.pod_namespace, endpoint.pod_name or endpoint.container_id)
            found[name] = (_stamp(endpoint.created), tuple(_host_ports(endpoint)))
    return found


def _host_ports(endpoint: Endpoint) -> Iterable[HostPort]:
    return (
        HostPort(
            mapping.host_address,
            mapping.host_port,
            Protocol[mapping.protocol],
            Backend(endpoint.address, mapping.container_port),
        )
        for mapping in endpoint.port_mappings
    )


def _stamp(seconds: float) -> str:
    """A time as the API writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
