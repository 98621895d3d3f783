"""What to change in the datapath's tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from podwire.service.claims import Owner
from podwire.service.model import Backend, BackendList, Frontend, FrontendKey, HealthCheck, Problem


@dataclass(slots=True)
class Changes:
    """What to change, in the order of the fields."""

    lists: dict[int, BackendList] = field(default_factory=dict)
    """New lists, by their number."""
    affinity_members: set[tuple[int, Backend]] = field(default_factory=set)
    """(service number, backend) to add."""
    source_ranges: set[tuple[int, str]] = field(default_factory=set)
    """(service number, network) to add."""
    frontends: dict[FrontendKey, Frontend] = field(default_factory=dict)
    """Frontends to write."""
    removed_frontends: set[FrontendKey] = field(default_factory=set)
    removed_source_ranges: set[tuple[int, str]] = field(default_factory=set)
    removed_affinity_members: set[tuple[int, Backend]] = field(default_factory=set)
    removed_lists: dict[int, int] = field(default_factory=dict)
    """Lists that no frontend uses any more, and their lengths."""
    released_udp: set[tuple[int, Backend]] = field(default_factory=set)
    """(service number, backend) of UDP services that lost the backend: flows to it must be forgotten."""
    health_checks: dict[int, HealthCheck] = field(default_factory=dict)
    """Health-check node ports to open, or whose answer changed."""
    removed_health_checks: set[int] = field(default_factory=set)
    problems: dict[Owner, tuple[Problem, ...]] = field(default_factory=dict)
    """Problems of objects whose problems changed; empty when they are gone."""

    def __bool__(self) -> bool:
        """Is there anything to do?"""
        return any(getattr(self, name) for name in self.__slots__)
