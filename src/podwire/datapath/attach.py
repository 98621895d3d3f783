"""Attaching programs to devices: tcx links with pins, or clsact filters where the kernel has no tcx.

Both kinds answer the same four questions, so the manager does not care which it has.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Protocol

from pyroute2 import IPRoute

from podwire.bpf import BpfError, Link, Program, TcHook, tc

from .errors import DatapathError
from .hooks import HOOKS, Hook
from .kernel import CLSACT, TCX

Attachments = dict[tuple[int, str], int]
"""(ifindex, hook name) -> id of the program attached there."""

_GONE = {errno.ENODEV, errno.ENXIO, errno.ENOLINK, errno.ENOENT, errno.EINVAL}


class Attacher(Protocol):
    """One way to attach. Devices are those of the caller's network namespace."""

    kind: str

    def attached(self) -> Attachments:
        """What is attached now to devices that exist."""

    def attach(self, ifindex: int, hook: Hook, program: Program) -> None:
        """Attach or atomically replace; raises DatapathError when the device does not exist."""

    def detach(self, ifindex: int, hook: Hook) -> bool:
        """Detach; False when nothing was attached."""

    def sweep(self) -> list[str]:
        """Forget attachments whose device is gone; returns their names."""


class TcxAttacher:
    """tcx links, kept alive by pins ``links/IFINDEX-HOOK``."""

    kind = TCX

    def __init__(self, links: Path) -> None:
        self._links = links

    def _pin(self, ifindex: int, hook: Hook) -> Path:
        return self._links / f"{ifindex}-{hook.name}"

    def _pins(self) -> list[tuple[Path, int, str]]:
        found = []
        if self._links.is_dir():
            for path in sorted(self._links.iterdir()):
                number, _, hook = path.name.partition("-")
                if number.isdigit() and hook in HOOKS:
                    found.append((path, int(number), hook))
        return found

    def attached(self) -> Attachments:
        result: Attachments = {}
        for path, ifindex, hook in self._pins():
            try:
                with Link.pinned(path) as link:
                    info = link.info
            except BpfError as error:
                if error.errno in _GONE:  # unpinned meanwhile
                    continue
                raise
            if info.ifindex == ifindex:
                result[ifindex, hook] = info.prog_id
        return result

    def attach(self, ifindex: int, hook: Hook, program: Program) -> None:
        pin = self._pin(ifindex, hook)
        if pin.exists():
            try:
                with Link.pinned(pin) as link:
                    if link.info.ifindex == ifindex:
                        link.update(program)
                        return
            except BpfError as error:
                if error.errno not in _GONE:
                    raise
            pin.unlink(missing_ok=True)  # of a device that is gone; its number may be in use again
        try:
            with Link.tcx(program, ifindex, hook.tcx) as link:
                link.pin(pin)
        except BpfError as error:
            raise _no_device(error, ifindex) from error

    def detach(self, ifindex: int, hook: Hook) -> bool:
        pin = self._pin(ifindex, hook)
        if not pin.exists():
            return False
        with Link.pinned(pin) as link:
            link.detach()
        pin.unlink(missing_ok=True)
        return True

    def sweep(self) -> list[str]:
        alive = self.attached()
        dead = [path for path, ifindex, hook in self._pins() if (ifindex, hook) not in alive]
        for path in dead:
            path.unlink(missing_ok=True)
        return [path.name for path in dead]


class ClsactAttacher:
    """tc filters at a fixed place. They end with their device, so there is nothing to pin.

    ``owned`` are the devices whose clsact qdisc this class created; it goes with the last filter.
    """

    kind = CLSACT

    def __init__(self, owned: tuple[int, ...] = ()) -> None:
        self.owned = set(owned)

    def attached(self) -> Attachments:
        result: Attachments = {}
        for ifindex, _name in socket.if_nameindex():
            for where in TcHook:
                number = tc.query(ifindex, where)
                hook = _hook_of(number, where) if number else None
                if number and hook:
                    result[ifindex, hook.name] = number
        return result

    def attach(self, ifindex: int, hook: Hook, program: Program) -> None:
        try:
            if tc.attach(program, ifindex, hook.tc):
                self.owned.add(ifindex)
        except BpfError as error:
            raise _no_device(error, ifindex) from error

    def detach(self, ifindex: int, hook: Hook) -> bool:
        removed = tc.detach(ifindex, hook.tc)
        if ifindex in self.owned and not _has_filters(ifindex):
            tc.remove_qdisc(ifindex)
            self.owned.discard(ifindex)
        return removed

    def sweep(self) -> list[str]:
        self.owned &= {ifindex for ifindex, _ in socket.if_nameindex()}
        return []


def _hook_of(program_id: int, where: TcHook) -> Hook | None:
    """Which hook a filter's program is for, by its name (the kernel keeps 15 characters)."""
    try:
        with Program.by_id(program_id) as program:
            name = program.info.name
    except BpfError:
        return None  # replaced meanwhile
    return next((hook for hook in HOOKS.values() if hook.tc == where and hook.program[:15] == name), None)


def _has_filters(ifindex: int) -> bool:
    with IPRoute() as netlink:
        return any(
            list(netlink.get_filters(index=ifindex, parent=parent)) for parent in (0xFFFFFFF2, 0xFFFFFFF3)
        )


def _no_device(error: BpfError, ifindex: int) -> DatapathError:
    if error.errno in (errno.ENODEV, errno.ENXIO, errno.EINVAL):
        return DatapathError(
            f"there is no network device with index {ifindex} in this network namespace ({error})"
        )
    return DatapathError(str(error))
