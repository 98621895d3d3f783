"""Read the Node objects of the Kubernetes API. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from podwire.agent.model import HEALTH_ANNOTATION, NodeInfo

ZONE_LABEL = "topology.kubernetes.io/zone"
HOSTNAME_LABEL = "kubernetes.io/hostname"


def node_from_object(value: Mapping[str, Any]) -> NodeInfo:
    """What the agent needs of a Node. IPv6 is left out; a field that makes no sense counts as absent."""
    metadata = value.get("metadata") or {}
    spec = value.get("spec") or {}
    status = value.get("status") or {}
    cidrs = [*(spec.get("podCIDRs") or ()), spec.get("podCIDR")]
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    return NodeInfo(
        name=str(metadata.get("name", "")),
        pod_cidr=next((cidr for cidr in cidrs if _is_network(cidr)), None),
        addresses=_addresses(status.get("addresses") or ()),
        health_address=_address_or_none(annotations.get(HEALTH_ANNOTATION)),
        uid=str(metadata.get("uid", "")),
        zone=str(labels.get(ZONE_LABEL) or ""),
        hostname=str(labels.get(HOSTNAME_LABEL) or ""),
    )


def _addresses(items: Any) -> tuple[str, ...]:
    """Internal addresses first: nodes reach each other there."""
    order = {"InternalIP": 0, "ExternalIP": 1}
    known = [
        (order[item["type"]], item["address"])
        for item in items
        if item.get("type") in order and _address_or_none(item.get("address"))
    ]
    return tuple(dict.fromkeys(address for _, address in sorted(known, key=lambda pair: pair[0])))


def _address_or_none(text: Any) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text)) if isinstance(text, str) else None
    except ValueError:
        return None


def _is_network(text: Any) -> bool:
    try:
        ipaddress.IPv4Network(text if isinstance(text, str) else "")
    except ValueError:
        return False
    return True
