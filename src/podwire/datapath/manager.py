"""The entrance to a node's datapath: every change and every question goes through ``Datapath``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from podwire.bpf import Map

from . import bpffs, maglev, netfilter, sockets, state
from .apply import Apply
from .config import DatapathConfig
from .devices import device_name, indexes
from .errors import NotInstalled
from .hooks import ENDPOINT_HOOKS, HOOKS
from .kernel import decide_host_routing, probe_features
from .loader import ObjectSet
from .lock import exclusive
from .pins import APPLY_FIRST, Pins
from .place import Place
from .report import Changes, DatapathStatus, HostRoutingChange
from .service_settings import MAGLEV_MAP
from .status import ABSENT, read_status, summary

TypedMap = Map


class Datapath:
    """The datapath of the network namespace that the caller is in.

    Safe to use from several threads and processes at once: changes take file locks. Methods block; in an
    event loop run them in an executor. They raise DatapathError, or BpfError for what nobody expects.
    """

    def __init__(
        self,
        pin_root: Path = Path("/sys/fs/bpf/podwire"),
        run_dir: Path = Path("/run/podwire"),
        state_dir: Path = Path("/var/lib/podwire"),
        cgroup: Path | None = None,
    ) -> None:
        """``cgroup``: services are translated for the sockets of this control group and of those below it; by
        default for all of the node's."""
        self.pins = Pins(Path(pin_root))
        self.state_file = Path(state_dir) / "datapath.json"
        self.place = Place(
            pins=self.pins,
            state_file=self.state_file,
            apply_lock=Path(run_dir) / "datapath-apply.lock",
            attach_lock=Path(run_dir) / "datapath.lock",
            cgroup=cgroup,
        )
        self._open_maps: dict[str, tuple[int, Map]] = {}
        self._open_maps_guard = threading.Lock()

    @property
    def pin_root(self) -> Path:
        """Directory of all pins."""
        return self.pins.root

    @property
    def maps(self) -> Path:
        """Directory of the pinned maps."""
        return self.pins.maps

    @property
    def programs(self) -> Path:
        """Directory of the pinned programs."""
        return self.pins.programs

    # -- the whole node ----------------------------------------------------------------------------

    def apply(
        self, config: DatapathConfig, objects: Path, devices: list[str], dry_run: bool = False
    ) -> Changes:
        """Make the node run ``objects`` with ``config``, attached to ``devices`` and to every known endpoint.

        Returns without a step when that is so already. ``dry_run`` tells what would be done and does nothing
        but open the objects and ask the kernel for its features.
        """
        found = indexes(devices)
        features = probe_features()
        with exclusive(self.place.apply_lock):
            run = Apply(self.place, config, ObjectSet.read(Path(objects)), found, features)
            return run.dry() if dry_run else run.run()

    def reapply(self, dry_run: bool = False) -> Changes:
        """Apply what was applied last (after a reboot, or to repair); NotInstalled when nothing was."""
        known = self.place.known()
        return self.apply(known.config, Path(known.objects), list(known.devices), dry_run=dry_run)

    def set_host_routing(self, mode: str, dry_run: bool = False) -> HostRoutingChange:
        """Switch between ``ebpf`` and ``legacy``; connections and their translations go on."""
        known = self.place.known()
        features = probe_features()
        after, reason = decide_host_routing(mode, features)
        changes = self.apply(
            known.config.with_host_routing(mode), Path(known.objects), list(known.devices), dry_run=dry_run
        )
        return HostRoutingChange(changes.changed, known.host_routing, after, reason, changes.steps)

    def remove(self, dry_run: bool = False) -> Changes:
        """Detach everything, drop all pins and the state, undo settings. Maps end with their last user."""
        with exclusive(self.place.apply_lock), exclusive(self.place.attach_lock):
            known = state.read(self.state_file)
            before = summary(known)
            steps = self._detach_sockets(dry_run)
            for attacher in self.place.attachers(known):
                for ifindex, hook in sorted(attacher.attached()):
                    steps.append(f"detach {hook} from {device_name(ifindex)} ({attacher.kind})")
                    if not dry_run:
                        attacher.detach(ifindex, HOOKS[hook])
            steps += [
                f"unpin {path.relative_to(self.pin_root)}"
                for path in self.pins.all()
                if path.parent != self.pins.links
            ]
            for name in netfilter.to_restore(known.sysctls) if known is not None else []:
                steps.append(f"set {netfilter.shown(name)} back to 0")
                if not dry_run:
                    netfilter.restore(name)
            if known is not None:
                steps.append(f"remove {self.state_file}")
            if dry_run:
                return Changes(steps, before, ABSENT)
            self._forget_maps()
            self.pins.remove()
            self.state_file.unlink(missing_ok=True)
            if known is not None and known.mounted:
                self._unmount_if_empty(steps)
        return Changes(steps, before, ABSENT)

    def status(self, count_entries: bool = False) -> DatapathStatus:
        """What is loaded and attached. ``count_entries`` reads every map: slow for full ones."""
        return read_status(self.place, self.map, count_entries)

    # -- endpoints ---------------------------------------------------------------------------------

    def attach_endpoint(self, ifindex: int) -> None:
        """Attach to a pod's host-side veth; repeating it is harmless. Takes about a millisecond."""
        with exclusive(self.place.attach_lock):
            known = self.place.known()
            attacher = self.place.attacher(known)
            for hook in ENDPOINT_HOOKS:
                with self.pins.program(hook.program) as program:
                    attacher.attach(ifindex, hook, program)

    def detach_endpoint(self, ifindex: int) -> None:
        """Detach from a veth and forget it; harmless when it is gone or was never attached."""
        with exclusive(self.place.attach_lock):
            known = state.read(self.state_file)
            for attacher in self.place.attachers(known):
                for hook in ENDPOINT_HOOKS:
                    attacher.detach(ifindex, hook)

    def attached(self) -> dict[int, set[str]]:
        """Hooks by interface index, of interfaces that exist."""
        result: dict[int, set[str]] = {}
        for attacher in self.place.attachers(state.read(self.state_file)):
            for ifindex, hook in attacher.attached():
                result.setdefault(ifindex, set()).add(hook)
        return result

    def sweep(self) -> list[str]:
        """Drop pins of links whose device is gone; returns their names."""
        with exclusive(self.place.attach_lock):
            return self.place.attacher(self.place.known()).sweep()

    # -- maps --------------------------------------------------------------------------------------

    def map(self, name: str) -> TypedMap:
        """A pinned map, e.g. ``podwire_endpoints4``. The handle is shared; do not close it.

        Ask again for each use: an upgrade may have put another map in its place, which this notices.
        """
        path = self.maps / name
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            raise NotInstalled(f"there is no map {name} at {path}", APPLY_FIRST) from None
        with self._open_maps_guard:
            cached = self._open_maps.get(name)
            if cached and cached[0] == inode:
                return cached[1]
            found = Map.pinned(path)
            self._open_maps[name] = (inode, found)  # the old handle closes itself when nobody uses it
            return found

    def maglev_set(self, list_id: int, table: Sequence[int]) -> None:
        """Spread flows to the list of backends ``list_id`` by ``table`` from now on: ``services.maglev_size``
        indexes into the list, put in place in one step. Write it before the services that name the list.

        Raises DatapathError for a table of another size, BpfError when the map is full."""
        maglev.put(self.map(MAGLEV_MAP), list_id, table)

    def maglev_delete(self, list_id: int) -> bool:
        """Forget the table of a list; False when there was none."""
        return self.map(MAGLEV_MAP).delete(list_id)

    def map_names(self) -> list[str]:
        """Names of the pinned maps."""
        return self.pins.map_names()

    # -- parts -------------------------------------------------------------------------------------

    def _detach_sockets(self, dry_run: bool) -> list[str]:
        attacher = self.place.sockets()
        steps = sockets.detach_steps(sockets.Target(None), attacher.attached())
        for _, hook in steps if not dry_run else ():
            attacher.detach(hook)
        return [text for text, _ in steps]

    def _unmount_if_empty(self, steps: list[str]) -> None:
        mount_point = self.pin_root.parent
        # Names with a dot are the kernel's own (maps.debug); nobody can pin under such a name.
        pins = [path for path in mount_point.iterdir() if "." not in path.name]
        if mount_point.is_mount() and not pins:
            steps.append(f"unmount {mount_point}")
            bpffs.unmount(mount_point)

    def _forget_maps(self) -> None:
        with self._open_maps_guard:
            self._open_maps.clear()
