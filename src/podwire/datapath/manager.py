"""Load, attach, replace in place, detach: all changes to a node's datapath go through ``Datapath``.

How a change stays safe: new programs are loaded beside the old ones over the same pinned maps (recreated ones
get a second pin). Only then, under a lock that attaching endpoints takes too, every attachment is switched
atomically, the pins are renamed over the old ones, and the state file is written last. Packets always meet
either the old or the new program. Whatever a crash leaves behind, the state file does not describe it, so the
next ``apply`` loads again and finishes the work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from podwire.bpf import BpfError, Map, Program

from . import bpffs, state
from .attach import Attacher, Attachments, ClsactAttacher, TcxAttacher
from .config import DatapathConfig
from .errors import DatapathError, NotInstalled
from .hooks import DEVICE_HOOKS, ENDPOINT_HOOKS, HOOKS, PROGRAMS, Hook
from .kernel import CLSACT, TCX, Features, decide_attach, decide_host_routing, probe_features
from .loader import NEW, Loaded, ObjectSet, Opened, load, opened
from .lock import exclusive
from .report import Changes, DatapathStatus, HostRoutingChange, MapStatus, ProgramStatus

TypedMap = Map
_COUNTERLESS = {"ringbuf"}
_FALLBACK_HINT = "Run `podwire datapath apply` (the role podwire.ebpf.datapath does) first."


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
    ) -> None:
        self.pin_root = Path(pin_root)
        self.maps = self.pin_root / "maps"
        self.programs = self.pin_root / "progs"
        self.links = self.pin_root / "links"
        self.state_file = Path(state_dir) / "datapath.json"
        self._apply_lock = Path(run_dir) / "datapath-apply.lock"
        self._attach_lock = Path(run_dir) / "datapath.lock"
        self._open_maps: dict[str, tuple[int, Map]] = {}
        self._open_maps_guard = threading.Lock()

    # -- the whole node ----------------------------------------------------------------------------

    def apply(
        self, config: DatapathConfig, objects: Path, devices: list[str], dry_run: bool = False
    ) -> Changes:
        """Make the node run ``objects`` with ``config``, attached to ``devices`` and to every known endpoint.

        Returns without a step when that is so already. ``dry_run`` tells what would be done and does nothing
        but open the objects and ask the kernel for its features.
        """
        indexes = _indexes(devices)
        features = probe_features()
        with exclusive(self._apply_lock):
            run = _Apply(self, config, ObjectSet.read(Path(objects)), indexes, features)
            return run.dry() if dry_run else run.run()

    def reapply(self, dry_run: bool = False) -> Changes:
        """Apply what was applied last (after a reboot, or to repair); NotInstalled when nothing was."""
        known = self._state()
        return self.apply(known.config, Path(known.objects), list(known.devices), dry_run=dry_run)

    def set_host_routing(self, mode: str, dry_run: bool = False) -> HostRoutingChange:
        """Switch between ``ebpf`` and ``legacy``; connections and their translations go on."""
        known = self._state()
        features = probe_features()
        after, reason = decide_host_routing(mode, features)
        changes = self.apply(
            known.config.with_host_routing(mode), Path(known.objects), list(known.devices), dry_run=dry_run
        )
        return HostRoutingChange(changes.changed, known.host_routing, after, reason, changes.steps)

    def remove(self, dry_run: bool = False) -> Changes:
        """Detach everything, drop all pins and the state. Maps end with their last user."""
        with exclusive(self._apply_lock), exclusive(self._attach_lock):
            known = state.read(self.state_file)
            before = self._summary(known)
            steps = []
            for attacher in self._attachers(known):
                for ifindex, hook in sorted(attacher.attached()):
                    steps.append(f"detach {hook} from {_device_name(ifindex)} ({attacher.kind})")
                    if not dry_run:
                        attacher.detach(ifindex, HOOKS[hook])
            steps += [
                f"unpin {path.relative_to(self.pin_root)}"
                for path in self._all_pins()
                if path.parent != self.links
            ]
            if known is not None:
                steps.append(f"remove {self.state_file}")
            if dry_run:
                return Changes(steps, before, _EMPTY)
            self._forget_maps()
            self._remove_pins()
            self.state_file.unlink(missing_ok=True)
            if known is not None and known.mounted:
                self._unmount_if_empty(steps)
        return Changes(steps, before, _EMPTY)

    def status(self, count_entries: bool = False) -> DatapathStatus:
        """What is loaded and attached. ``count_entries`` reads every map: slow for full ones."""
        known = state.read(self.state_file)
        release = os.uname().release
        if known is None:
            return DatapathStatus(installed=False, kernel=release, problems=["no datapath was applied"])
        attachments = self._attacher(known).attached()
        problems: list[str] = []
        programs = self._program_status(attachments, known, problems)
        devices = self._device_status(known, attachments, problems)
        return DatapathStatus(
            installed=bool(programs),
            kernel=release,
            mode=known.host_routing,
            requested=known.config.host_routing,
            reason=known.reason,
            attach=known.attach,
            objects=known.objects,
            digest=known.digest,
            devices=devices,
            endpoints=sorted({i for i, hook in attachments if HOOKS[hook] in ENDPOINT_HOOKS}),
            programs=programs,
            maps=self._map_status(count_entries),
            features=known.features,
            config=known.config.to_dict(),
            recreated_maps=known.recreated,
            problems=problems,
        )

    # -- endpoints ---------------------------------------------------------------------------------

    def attach_endpoint(self, ifindex: int) -> None:
        """Attach to a pod's host-side veth; repeating it is harmless. Takes about a millisecond."""
        with exclusive(self._attach_lock):
            known = self._state()
            attacher = self._attacher(known)
            for hook in ENDPOINT_HOOKS:
                with self._pinned_program(hook.program) as program:
                    attacher.attach(ifindex, hook, program)

    def detach_endpoint(self, ifindex: int) -> None:
        """Detach from a veth and forget it; harmless when it is gone or was never attached."""
        with exclusive(self._attach_lock):
            known = state.read(self.state_file)
            for attacher in self._attachers(known):
                for hook in ENDPOINT_HOOKS:
                    attacher.detach(ifindex, hook)

    def attached(self) -> dict[int, set[str]]:
        """Hooks by interface index, of interfaces that exist."""
        result: dict[int, set[str]] = {}
        for attacher in self._attachers(state.read(self.state_file)):
            for ifindex, hook in attacher.attached():
                result.setdefault(ifindex, set()).add(hook)
        return result

    def sweep(self) -> list[str]:
        """Drop pins of links whose device is gone; returns their names."""
        with exclusive(self._attach_lock):
            return self._attacher(self._state()).sweep()

    # -- maps --------------------------------------------------------------------------------------

    def map(self, name: str) -> TypedMap:
        """A pinned map, e.g. ``podwire_endpoints4``. The handle is shared; do not close it.

        Ask again for each use: an upgrade may have put another map in its place, which this notices.
        """
        path = self.maps / name
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            raise NotInstalled(f"there is no map {name} at {path}", _FALLBACK_HINT) from None
        with self._open_maps_guard:
            cached = self._open_maps.get(name)
            if cached and cached[0] == inode:
                return cached[1]
            found = Map.pinned(path)
            self._open_maps[name] = (inode, found)  # the old handle closes itself when nobody uses it
            return found

    def map_names(self) -> list[str]:
        """Names of the pinned maps."""
        if not self.maps.is_dir():
            return []
        return sorted(path.name for path in self.maps.iterdir() if not path.name.endswith(NEW))

    # -- parts -------------------------------------------------------------------------------------

    def _state(self) -> state.State:
        known = state.read(self.state_file)
        if known is None:
            raise NotInstalled("no datapath is loaded on this node", _FALLBACK_HINT)
        return known

    def _attacher(self, known: state.State) -> TcxAttacher | ClsactAttacher:
        if known.attach == CLSACT:
            return ClsactAttacher(self.programs, known.qdiscs)
        return TcxAttacher(self.links)

    def _attachers(self, known: state.State | None) -> list[Attacher]:
        """The way in use, and the other one too when it may have left something (an interrupted change)."""
        tcx = TcxAttacher(self.links)
        if known is None:
            return [tcx, ClsactAttacher(self.programs)]
        return [ClsactAttacher(self.programs, known.qdiscs), tcx] if known.attach == CLSACT else [tcx]

    def _pinned_program(self, name: str) -> Program:
        try:
            return Program.pinned(self.programs / name)
        except BpfError as error:
            raise NotInstalled(
                f"program {name} is not loaded on this node ({error})", _FALLBACK_HINT
            ) from error

    def pinned_ids(self) -> dict[str, int]:
        """Ids of the pinned programs by name."""
        result = {}
        for name in PROGRAMS:
            with contextlib.suppress(NotInstalled), self._pinned_program(name) as program:
                result[name] = program.id
        return result

    def _program_status(
        self, attachments: Attachments, known: state.State, problems: list[str]
    ) -> list[ProgramStatus]:
        result = []
        for name, hook in PROGRAMS.items():
            try:
                with self._pinned_program(name) as program:
                    info = program.info
            except NotInstalled as error:
                problems.append(error.cause)
                continue
            if known.programs.get(name) != info.id:
                problems.append(f"program {name} is not the one that was applied")
            attached = sorted(i for (i, where), number in attachments.items() if where == hook.name)
            stale = [i for i in attached if attachments[i, hook.name] != info.id]
            problems += [f"{hook.name} of {_device_name(i)} runs an old program" for i in stale]
            result.append(
                ProgramStatus(
                    name, info.id, info.tag, attached, info.xlated_bytes, info.jited_bytes,
                    info.run_time_ns, info.run_count,
                )
            )  # fmt: skip
        return result

    def _device_status(
        self, known: state.State, attachments: Attachments, problems: list[str]
    ) -> list[dict[str, Any]]:
        result = []
        for name in known.devices:
            try:
                ifindex = socket.if_nametoindex(name)
            except OSError:
                problems.append(f"device {name} does not exist")
                continue
            hooks = [hook.name for hook in DEVICE_HOOKS if (ifindex, hook.name) in attachments]
            problems += [
                f"{hook.name} is not attached to device {name}"
                for hook in DEVICE_HOOKS
                if hook.name not in hooks
            ]
            result.append({"name": name, "ifindex": ifindex, "hooks": sorted(hooks)})
        return result

    def _map_status(self, count_entries: bool) -> list[MapStatus]:
        result = []
        for name in self.map_names():
            found = self.map(name)
            kind = found.info.type_name
            entries = len(found) if count_entries and kind not in _COUNTERLESS else None
            result.append(
                MapStatus(
                    name, found.info.id, kind, entries, found.info.max_entries, found.info.key_size,
                    found.info.value_size,
                )
            )  # fmt: skip
        return result

    def _summary(self, known: state.State | None) -> dict[str, Any]:
        """What a diff shows: stable between runs that change nothing."""
        if known is None:
            return dict(_EMPTY)
        return {
            "installed": True,
            "objects": known.objects,
            "digest": known.digest,
            "host_routing": known.host_routing,
            "requested_host_routing": known.config.host_routing,
            "reason": known.reason,
            "attach": known.attach,
            "devices": list(known.devices),
            "config": known.config.to_dict(),
        }

    def _all_pins(self) -> list[Path]:
        return [
            path
            for folder in (self.links, self.programs, self.maps)
            if folder.is_dir()
            for path in sorted(folder.iterdir())
        ]

    def _remove_pins(self) -> None:
        for path in self._all_pins():
            path.unlink(missing_ok=True)
        for folder in (self.links, self.programs, self.maps, self.pin_root):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()

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


_EMPTY: dict[str, Any] = {"installed": False}


class _Apply:
    """One run of ``Datapath.apply``, under its lock."""

    def __init__(
        self,
        datapath: Datapath,
        config: DatapathConfig,
        objects: ObjectSet,
        indexes: dict[str, int],
        features: Features,
    ) -> None:
        self._datapath = datapath
        self._objects = objects
        self._indexes = indexes
        self._known = state.read(datapath.state_file)
        mode, reason = decide_host_routing(config.host_routing, features)
        self._attach_kind = decide_attach(config.attach, features)
        self._constants = config.constants(mode)
        self._wanted = state.State(
            objects=str(objects.directory),
            config=config,
            devices=tuple(sorted(indexes)),
            digest=objects.digest(self._constants, config.map_entries),
            attach=self._attach_kind,
            host_routing=mode,
            reason=reason,
            qdiscs=self._known.qdiscs if self._known else (),
            mounted=bool(self._known and self._known.mounted),
            features=features.to_dict(),
        )
        self._notes = [f"host routing is {mode}, not {config.host_routing}: {reason}"] if reason else []

    # -- deciding ----------------------------------------------------------------------------------

    def _programs_current(self) -> bool:
        """Were the pinned programs loaded from what is wanted, and are all maps still pinned?"""
        if self._known is None or self._known.digest != self._wanted.digest:
            return False
        pinned = self._datapath.pinned_ids()
        return pinned.keys() == PROGRAMS.keys() and pinned == self._known.programs

    def _missing_maps(self, plan: Opened) -> bool:
        return bool(plan.create or plan.recreate)

    def _load_steps(self, plan: Opened, reload: bool) -> list[str]:
        steps = [f"create map {name}" for name in plan.create]
        steps += [f"recreate map {name}: {why}" for name, why in plan.recreate.items()]
        if reload:
            verb = "replace" if self._known and self._datapath.pinned_ids() else "load"
            steps += [f"{verb} program {name}" for name in PROGRAMS]
        return steps

    def _attach_steps(self, reload: bool) -> list[tuple[str, int, Hook]]:
        """What to attach: (sentence, ifindex, hook). Replaced programs are attached everywhere again."""
        have: Attachments = {}
        foreign: Attachments = {}
        if self._datapath.pin_root.is_dir() or self._attach_kind == CLSACT:
            have = self._attacher().attached()
            foreign = self._other_attacher().attached() if self._kind_changed() else {}
        pinned = {} if reload else self._datapath.pinned_ids()
        wanted: dict[tuple[int, str], str] = {}
        for ifindex, hook_name in {**foreign, **have}:
            if HOOKS[hook_name] in ENDPOINT_HOOKS:
                wanted[ifindex, hook_name] = _device_name(ifindex)
        for name, ifindex in self._indexes.items():
            for hook in DEVICE_HOOKS:
                wanted[ifindex, hook.name] = name
        steps = []
        for (ifindex, hook_name), name in wanted.items():
            hook = HOOKS[hook_name]
            current = have.get((ifindex, hook_name))
            if current is None:
                steps.append((f"attach {hook_name} to {name}", ifindex, hook))
            elif current != pinned.get(hook.program):
                steps.append((f"replace {hook_name} of {name}", ifindex, hook))
        return steps

    def _detach_steps(self) -> list[tuple[str, int, Hook]]:
        """Devices that are no longer wanted."""
        have = self._attacher().attached() if self._known else {}
        return [
            (f"detach {hook} from {_device_name(ifindex)}", ifindex, HOOKS[hook])
            for ifindex, hook in sorted(have)
            if HOOKS[hook] in DEVICE_HOOKS and ifindex not in self._indexes.values()
        ]

    def _kind_changed(self) -> bool:
        return self._known is not None and self._known.attach != self._attach_kind

    def _attacher(self) -> TcxAttacher | ClsactAttacher:
        return self._datapath._attacher(self._wanted)

    def _other_attacher(self) -> TcxAttacher | ClsactAttacher:
        other = TCX if self._attach_kind == CLSACT else CLSACT
        return self._datapath._attacher(replace(self._wanted, attach=other))

    def _settings_steps(self) -> list[str]:
        """Changes that need no new program but are remembered (a mode the kernel cannot do)."""
        known = self._known
        if known is None:
            return []
        before, after = self._datapath._summary(known), self._datapath._summary(self._wanted)
        names = [name for name in after if before.get(name) != after[name]]
        return [
            f"remember {name}: {after[name]}"
            for name in names
            if name in ("objects", "requested_host_routing")
        ]

    # -- doing -------------------------------------------------------------------------------------

    def _open(self) -> contextlib.AbstractContextManager[Opened]:
        return opened(self._objects, self._constants, self._wanted.config.map_entries, self._datapath.maps)

    def _result(self, steps: list[str]) -> Changes:
        before = self._datapath._summary(self._known)
        return Changes(steps, before, self._datapath._summary(self._wanted), self._notes)

    def dry(self) -> Changes:
        with self._open() as plan:
            reload = self._missing_maps(plan) or not self._programs_current()
            steps = self._load_steps(plan, reload)
        steps += [text for text, _, _ in [*self._attach_steps(reload), *self._detach_steps()]]
        return self._result(steps or self._settings_steps())

    def run(self) -> Changes:
        self._prepare_pins()
        with contextlib.ExitStack() as stack:
            plan = stack.enter_context(self._open())
            reload = self._missing_maps(plan) or not self._programs_current()
            steps = self._load_steps(plan, reload)
            loaded = stack.enter_context(load(plan, self._datapath.maps)) if reload else None
            if loaded:
                self._notes += loaded.notes
                self._wanted = replace(self._wanted, recreated=dict(plan.recreate))
            steps += self._switch(plan, loaded)
        if self._known is not None and not reload:
            self._wanted = replace(self._wanted, recreated=self._known.recreated)
        result = steps or self._settings_steps()
        if self._known != self._wanted:
            state.write(self._datapath.state_file, self._wanted)
        return self._result(result)

    def _prepare_pins(self) -> None:
        datapath = self._datapath
        mounted = bpffs.ensure(datapath.pin_root)
        self._wanted = replace(self._wanted, mounted=self._wanted.mounted or mounted)
        try:
            for folder in (datapath.maps, datapath.programs, datapath.links):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DatapathError(f"cannot create {error.filename}: {error.strerror}") from error
        for path in datapath._all_pins():
            if path.name.endswith(NEW):
                path.unlink(missing_ok=True)

    def _switch(self, plan: Opened, loaded: Loaded | None) -> list[str]:
        """The critical part: what happens here is short, and safe to repeat."""
        datapath = self._datapath
        with exclusive(datapath._attach_lock), contextlib.ExitStack() as stack:
            attacher = self._attacher()
            attacher.sweep()
            attach, detach = self._attach_steps(loaded is not None), self._detach_steps()
            if loaded:
                programs = loaded.programs
                for name, program in programs.items():
                    program.pin(datapath.programs / f"{name}{NEW}")
            else:
                programs = {name: stack.enter_context(datapath._pinned_program(name)) for name in PROGRAMS}
            for _, ifindex, hook in attach:
                self._attach_one(attacher, ifindex, hook, programs[hook.program])
            if self._kind_changed():
                self._detach_other_kind()
            for _, ifindex, hook in detach:
                attacher.detach(ifindex, hook)
            if loaded:
                for name in plan.recreate:
                    (datapath.maps / f"{name}{NEW}").rename(datapath.maps / name)
                for name in programs:
                    (datapath.programs / f"{name}{NEW}").rename(datapath.programs / name)
            qdiscs = tuple(sorted(attacher.owned)) if isinstance(attacher, ClsactAttacher) else ()
            ids = {name: program.id for name, program in programs.items()}
            self._wanted = replace(self._wanted, programs=ids, qdiscs=qdiscs)
        return [text for text, _, _ in [*attach, *detach]]

    def _attach_one(self, attacher: Attacher, ifindex: int, hook: Hook, program: Program) -> None:
        try:
            attacher.attach(ifindex, hook, program)
        except DatapathError:
            if hook in ENDPOINT_HOOKS and _device_name(ifindex).startswith("interface "):
                return  # the pod went away meanwhile
            raise

    def _detach_other_kind(self) -> None:
        other = self._other_attacher()
        for ifindex, hook_name in other.attached():
            other.detach(ifindex, HOOKS[hook_name])
        other.sweep()


def _indexes(devices: list[str]) -> dict[str, int]:
    """Interface indexes of the named devices of this network namespace."""
    result = {}
    for name in devices:
        try:
            result[name] = socket.if_nametoindex(name)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENXIO, None):
                raise
            there = ", ".join(other for _, other in socket.if_nameindex())
            raise DatapathError(
                f"device {name} does not exist on this node; it has {there}",
                "Set podwire_devices to the devices that carry the node's traffic.",
            ) from None
    return result


def _device_name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"interface {ifindex}"
