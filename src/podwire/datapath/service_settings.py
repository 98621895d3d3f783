"""What the datapath is told about services at load time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import DatapathError

MAGLEV_MAP = "podwire_maglev"
MAGLEV_ENTRY = 2
"""Bytes of one entry of a Maglev table: an index into a list of backends."""


@dataclass(frozen=True)
class ServiceSettings:
    """Services in eBPF, in place of kube-proxy. Checked when the object is made; DatapathError names the bad
    field."""

    enabled: bool = False
    """Translate services; off, nothing is attached to sockets and packets for services go to the stack."""
    node_port_min: int = 30000
    node_port_max: int = 32767
    """The cluster's range of node ports (``--service-node-port-range`` of the API server), both included."""
    maglev_size: int = 16381
    """Entries of a Maglev table, a prime. More entries move fewer connections when a backend leaves."""
    dsr: bool = False
    """Answers of backends on other nodes go to the client directly instead of by this node."""

    def __post_init__(self) -> None:
        for name in ("enabled", "dsr"):
            if not isinstance(getattr(self, name), bool):
                raise DatapathError(f"services.{name}: {getattr(self, name)!r} is not true or false")
        _within("node_port_min", self.node_port_min, 1, 65535)
        _within("node_port_max", self.node_port_max, self.node_port_min, 65535)
        _within("maglev_size", self.maglev_size, 251, 131071)
        if not _is_prime(self.maglev_size):
            raise DatapathError(
                f"services.maglev_size: {self.maglev_size} is not a prime",
                "Take for example 16381, or 65537 for services with hundreds of backends.",
            )

    def constants(self, host_netns_cookie: int) -> dict[str, Any]:
        """Values of the objects' constants; ``host_netns_cookie`` 0 means the kernel's first namespace."""
        return {
            "cfg_services": int(self.enabled),
            "cfg_node_port_min": self.node_port_min,
            "cfg_node_port_max": self.node_port_max,
            "cfg_host_netns_cookie": host_netns_cookie,
            "cfg_maglev_size": self.maglev_size,
            "cfg_dsr": int(self.dsr),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ServiceSettings:
        """Read back ``dataclasses.asdict``; unknown fields are an error that names them."""
        unknown = set(values) - {entry.name for entry in fields(cls)}
        if unknown:
            raise DatapathError(f"unknown settings of services: {', '.join(sorted(unknown))}")
        return cls(**values)


def _within(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise DatapathError(f"services.{name}: {value!r} is not a number from {low} to {high}")


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))
