"""What the node remembers about its datapath across restarts and reboots: ``datapath.json``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .config import DatapathConfig
from .errors import DatapathError

VERSION = 1


@dataclass(frozen=True)
class State:
    """``digest`` stands for objects, constants and map sizes; ``programs`` are the ids loaded from them.

    Ids are never used twice while a kernel runs, so a pinned program with the id noted here was loaded from
    ``digest``, whatever happened in between.
    """

    objects: str
    config: DatapathConfig
    devices: tuple[str, ...]
    digest: str
    attach: str
    host_routing: str
    reason: str
    programs: dict[str, int] = field(default_factory=dict)
    qdiscs: tuple[int, ...] = ()
    mounted: bool = False
    features: dict[str, Any] = field(default_factory=dict)
    recreated: dict[str, str] = field(default_factory=dict)
    sysctls: tuple[str, ...] = ()
    """Settings of netfilter that were turned on here."""
    cgroup: str = ""
    """The control group whose sockets are served; empty when none are."""
    sockets_reason: str = ""
    """Why no sockets are served although services are on."""

    def to_json(self) -> str:
        values = asdict(self) | {"config": self.config.to_dict(), "version": VERSION}
        return json.dumps(values, indent=2, sort_keys=True) + "\n"


def read(path: Path) -> State | None:
    """The remembered state; None when there is none, or none that this version can read."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or values.pop("version", None) != VERSION:
        return None
    try:
        values["config"] = DatapathConfig.from_dict(values["config"])
        values["devices"] = tuple(values["devices"])
        values["qdiscs"] = tuple(values["qdiscs"])
        values["sysctls"] = tuple(values.get("sysctls", ()))
        return State(**values)
    except (DatapathError, KeyError, TypeError):
        return None


def write(path: Path, state: State) -> None:
    """Replace the file in one step, flushed to disk; raises DatapathError (disk full, read-only)."""
    with _errors_named(path):
        temporary = _write_temporary(path, state)
        temporary.replace(path)


def check_writable(path: Path, state: State) -> None:
    """Raise what ``write`` would raise: to be asked before a change that has to be remembered."""
    with _errors_named(path):
        _write_temporary(path, state).unlink()


def _write_temporary(path: Path, state: State) -> Path:
    temporary = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("w") as file:
            file.write(state.to_json())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatapathError(
            f"cannot write {path}: {error.strerror}", f"Look at the free space of {path.parent} (df -h)."
        ) from error
