"""Where a datapath lives: pins, locks, the state file; and how it is attached there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import state
from .attach import Attacher, ClsactAttacher, TcxAttacher
from .errors import NotInstalled
from .kernel import CLSACT
from .pins import APPLY_FIRST, Pins
from .sockets import SocketAttacher


@dataclass(frozen=True)
class Place:
    """Paths of one datapath. ``apply_lock`` keeps changes apart, ``attach_lock`` keeps out of a switch."""

    pins: Pins
    state_file: Path
    apply_lock: Path
    attach_lock: Path
    cgroup: Path | None = None
    """Control group whose sockets are served; None: the root of the node's."""

    def known(self) -> state.State:
        """What was applied last; raises NotInstalled."""
        found = state.read(self.state_file)
        if found is None:
            raise NotInstalled("no datapath is loaded on this node", APPLY_FIRST)
        return found

    def attacher(self, known: state.State) -> TcxAttacher | ClsactAttacher:
        """The way of attaching that ``known`` names."""
        if known.attach == CLSACT:
            return ClsactAttacher(known.qdiscs)
        return TcxAttacher(self.pins.links)

    def sockets(self) -> SocketAttacher:
        """The way of attaching to sockets."""
        return SocketAttacher(self.pins.links)

    def attachers(self, known: state.State | None) -> list[Attacher]:
        """The way in use, and the other one where it may have left something (an interrupted change)."""
        tcx = TcxAttacher(self.pins.links)
        if known is None:
            return [tcx, ClsactAttacher()]
        return [self.attacher(known), tcx] if known.attach == CLSACT else [tcx]
