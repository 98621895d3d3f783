"""Shorten the kernel's wait when a program is attached to a pod's interface.

Attaching by tcx waits for an RCU grace period while it holds the lock of all network configuration: some 10
ms, twice per pod, one pod after the other. While ``hurried`` is entered the kernel uses expedited grace
periods, as it does by itself when a network device is removed. A host that must not have them (isolated CPUs)
says so with ``rcupdate.rcu_normal=1``, and then this has no effect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

SWITCH = Path("/sys/kernel/rcu_expedited")


class Grace:
    """The switch, and a marker beside the agent's sockets so that a killed agent does not leave it on."""

    def __init__(self, marker: Path, switch: Path = SWITCH) -> None:
        self._marker = marker
        self._switch = switch

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """Run the block with expedited grace periods, where they can be had. One thread at a time."""
        on = self._turn_on()
        try:
            yield
        finally:
            if on:
                self.restore()

    def restore(self) -> None:
        """Turn off what this agent, or one that was killed, turned on. Nobody else's setting is touched."""
        if self._marker.exists():
            with contextlib.suppress(OSError):
                self._switch.write_text("0")
            self._marker.unlink(missing_ok=True)

    def _turn_on(self) -> bool:
        try:
            if self._switch.read_text().strip() != "0":
                return False
            self._marker.touch()
            self._switch.write_text("1")
        except OSError:  # read-only /sys, or a kernel without the switch: it only takes longer
            self._marker.unlink(missing_ok=True)
            return False
        return True
