"""Attaching programs to the sockets of the node's control groups: links, kept alive by pins
``links/cgroup-HOOK``."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from podwire.bpf import BpfError, Link, Program

from . import cgroup
from .errors import DatapathError
from .hooks import CGROUP_HOOKS, CgroupHook
from .kernel import Features
from .service_settings import ServiceSettings

_PREFIX = "cgroup-"
_GONE = {errno.ENOENT, errno.ENOLINK}


@dataclass(frozen=True, slots=True)
class Target:
    """Whose sockets are served: those of control group ``directory`` and below. None: nobody's, and why
    (empty when nobody asked for it)."""

    directory: Path | None
    reason: str = ""


def decide(settings: ServiceSettings, features: Features, given: Path | None) -> Target:
    """Where to attach. ``given`` is a control group to take instead of the node's root."""
    if not settings.enabled:
        return Target(None)
    if not features.socket_programs:
        return Target(None, f"kernel {features.release} has no programs for sockets (CONFIG_CGROUP_BPF)")
    try:
        directory = given or cgroup.root()
        directory.stat()
    except DatapathError as error:
        return Target(None, str(error))
    except OSError as error:
        return Target(None, f"control group {error.filename}: {error.strerror}")
    return Target(directory)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A program on the control group whose inode number is ``cgroup_id``."""

    program_id: int
    cgroup_id: int


class SocketAttacher:
    """The links of one datapath."""

    def __init__(self, links: Path) -> None:
        self._links = links

    def attached(self) -> dict[str, Attachment]:
        """What is attached now, by the hook's name."""
        found = {}
        for hook in CGROUP_HOOKS:
            try:
                with Link.pinned(self._pin(hook)) as link:
                    info = link.info
            except BpfError as error:
                if error.errno in _GONE:
                    continue
                raise
            if info.cgroup_id:
                found[hook.name] = Attachment(info.prog_id, info.cgroup_id)
        return found

    def attach(self, hook: CgroupHook, program: Program, directory: Path) -> None:
        """Attach, or replace atomically what is attached there. Raises DatapathError."""
        pin = self._pin(hook)
        try:
            if pin.exists():
                with Link.pinned(pin) as link:
                    if link.info.cgroup_id == directory.stat().st_ino:
                        link.update(program)
                        return
                pin.unlink()
            with Link.cgroup(program, directory, hook.where) as link:
                link.pin(pin)
        except BpfError as error:
            raise DatapathError(str(error)) from error

    def detach(self, hook: CgroupHook) -> bool:
        """Detach; False when nothing was attached."""
        pin = self._pin(hook)
        if not pin.exists():
            return False
        with Link.pinned(pin) as link:
            link.detach()
        pin.unlink(missing_ok=True)
        return True

    def _pin(self, hook: CgroupHook) -> Path:
        return self._links / f"{_PREFIX}{hook.name}"


def attach_steps(
    target: Target, have: dict[str, Attachment], pinned: dict[str, int]
) -> list[tuple[str, CgroupHook]]:
    """What to attach, as sentence and hook; ``pinned`` are the programs' ids, none when they are replaced."""
    if target.directory is None:
        return []
    wanted = target.directory.stat().st_ino
    steps = []
    for hook in CGROUP_HOOKS:
        current = have.get(hook.name)
        if current is None or current.cgroup_id != wanted:
            steps.append((f"attach {hook.name} to control group {target.directory}", hook))
        elif current.program_id != pinned.get(hook.program):
            steps.append((f"replace {hook.name} of control group {target.directory}", hook))
    return steps


def detach_steps(target: Target, have: dict[str, Attachment]) -> list[tuple[str, CgroupHook]]:
    """What to detach: all of it when sockets are no longer served, what translates first."""
    if target.directory is not None:
        return []
    return [
        (f"detach {hook.name} from its control group", hook)
        for hook in reversed(CGROUP_HOOKS)
        if hook.name in have
    ]
