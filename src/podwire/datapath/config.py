"""What the datapath is told at load time. Pure: values, checks, and the constants they become."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .errors import DatapathError
from .kernel import CLSACT, EBPF, LEGACY, TCX
from .service_settings import MAGLEV_ENTRY, MAGLEV_MAP, ServiceSettings

GATEWAY_IP = "169.254.1.1"
HOST_MAC = "02:70:6f:64:77:31"
"""MAC address of every host-side veth, so that one constant serves all pods."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_MTU_RANGE = (576, 65535)


@dataclass(frozen=True)
class DatapathConfig:
    """Settings of one node. Checked when the object is made; DatapathError names the bad field."""

    node_ip: str
    """The node's IPv4 address: source of masqueraded packets, unless the device they leave by has others."""
    host_routing: str = EBPF
    """Wanted mode: ``ebpf`` or ``legacy``; a kernel without the helpers gets ``legacy`` and a reason."""
    gateway_ip: str = GATEWAY_IP
    """The pods' gateway, answered by the datapath itself."""
    host_mac: str = HOST_MAC
    """MAC address of the host-side veths."""
    nat_port_min: int = 61000
    nat_port_max: int = 65535
    """Ports that masquerading uses; the host must not (the default lies above Linux' ephemeral range)."""
    mtu: int = 1500
    """Largest IP packet in bytes; larger ones take the stack, which fragments or reports."""
    masquerade: bool = True
    """Give packets that leave the cluster an address of the node."""
    policy: bool = True
    """Enforce the policies of endpoints. Off, the programs do not know of any."""
    event_rate: int = 100
    """Drop events per second and CPU, and as many of each other kind; 0 turns events off, counters always
    count."""
    attach: str = "auto"
    """``auto`` (tcx where the kernel has it), ``tcx`` or ``clsact``."""
    map_entries: Mapping[str, int] = field(default_factory=dict)
    """Sizes of maps by name, where they differ from the object file's."""
    services: ServiceSettings = field(default_factory=ServiceSettings)
    """Services in eBPF; off by default."""

    def __post_init__(self) -> None:
        _one_of("host_routing", self.host_routing, (EBPF, LEGACY))
        _one_of("attach", self.attach, ("auto", TCX, CLSACT))
        for name in ("node_ip", "gateway_ip"):
            _address(name, getattr(self, name))
        if not _MAC.fullmatch(self.host_mac.lower()):
            raise DatapathError(f"host_mac: {self.host_mac!r} is not a MAC address like {HOST_MAC}")
        _within("mtu", self.mtu, *_MTU_RANGE)
        _within("nat_port_min", self.nat_port_min, 1024, 65535)
        _within("nat_port_max", self.nat_port_max, self.nat_port_min, 65535)
        _within("event_rate", self.event_rate, 0, 1_000_000)
        for name, entries in self.map_entries.items():
            _within(f"map_entries[{name}]", entries, 1, 1 << 26)

    def constants(self, host_routing: str, host_netns_cookie: int = 0) -> dict[str, Any]:
        """Values of the objects' ``cfg_*`` constants when running in mode ``host_routing``, in the network
        namespace with that cookie."""
        return {
            "cfg_host_routing": int(host_routing == EBPF),
            "cfg_node_ip4": int(ipaddress.IPv4Address(self.node_ip)),
            "cfg_gateway_ip4": int(ipaddress.IPv4Address(self.gateway_ip)),
            "cfg_host_mac": bytes.fromhex(self.host_mac.replace(":", "")),
            "cfg_nat_port_min": self.nat_port_min,
            "cfg_nat_port_max": self.nat_port_max,
            "cfg_mtu": self.mtu,
            "cfg_masquerade": int(self.masquerade),
            "cfg_policy": int(self.policy),
            "cfg_event_rate": self.event_rate,
            **self.services.constants(host_netns_cookie),
        }

    def inner_value_sizes(self) -> dict[str, int]:
        """Bytes of a value of the maps that a map of maps holds, by the outer map's name."""
        return {MAGLEV_MAP: MAGLEV_ENTRY * self.services.maglev_size}

    def with_host_routing(self, mode: str) -> DatapathConfig:
        """The same settings with another wanted mode."""
        return replace(self, host_routing=mode)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"map_entries": dict(self.map_entries)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DatapathConfig:
        """Read back ``to_dict``; unknown fields (of a newer version) are an error that names them."""
        unknown = set(values) - {entry.name for entry in fields(cls)}
        if unknown:
            raise DatapathError(f"unknown datapath settings: {', '.join(sorted(unknown))}")
        services = ServiceSettings.from_dict(values.get("services", {}))
        return cls(**{**values, "services": services})


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DatapathError(f"{name}: {value!r} is not one of {', '.join(allowed)}")


def _within(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DatapathError(f"{name}: {value!r} is not a number from {low} to {high}")


def _address(name: str, value: str) -> None:
    try:
        ipaddress.IPv4Address(value)
    except ValueError as error:
        raise DatapathError(f"{name}: {error}") from None
