"""Values that the manager answers with; all turn into JSON by ``to_dict``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Changes:
    """What was (or, in a dry run, would be) done. ``steps`` are sentences for people."""

    steps: list[str]
    before: dict[str, Any]
    after: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    """Things worth knowing that are not changes: a fallback and its reason, content that was not kept."""

    @property
    def changed(self) -> bool:
        return bool(self.steps)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"changed": self.changed}


@dataclass(frozen=True)
class HostRoutingChange:
    """``before`` and ``after`` are modes in effect; ``reason`` says why not the wanted one."""

    changed: bool
    before: str
    after: str
    reason: str
    steps: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ProgramStatus:
    """A pinned program and where it is attached; ``attached`` lists interface indexes (none for those of
    sockets)."""

    name: str
    id: int
    tag: str
    attached: list[int]
    xlated_bytes: int
    jited_bytes: int
    run_time_ns: int
    run_count: int


@dataclass(frozen=True)
class MapStatus:
    """A pinned map. ``entries`` is None when they were not counted."""

    name: str
    id: int
    type: str
    entries: int | None
    max_entries: int
    key_size: int
    value_size: int


@dataclass(frozen=True)
class DatapathStatus:
    """State of one node's datapath. ``problems`` is empty when everything is as ``apply`` left it."""

    installed: bool
    kernel: str
    mode: str = ""
    requested: str = ""
    reason: str = ""
    attach: str = ""
    objects: str = ""
    digest: str = ""
    devices: list[dict[str, Any]] = field(default_factory=list)
    endpoints: list[int] = field(default_factory=list)
    sockets: dict[str, Any] = field(default_factory=dict)
    """Translation of services in sockets: ``enabled``, ``cgroup``, hooks ``attached`` there, and the
    ``reason`` when it is wanted and not there."""
    programs: list[ProgramStatus] = field(default_factory=list)
    maps: list[MapStatus] = field(default_factory=list)
    features: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    recreated_maps: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
