"""One change of a node's datapath.

How a change stays safe: new programs are loaded beside the old ones over the same pinned maps (recreated ones
get a second pin). Only then, under a lock that attaching endpoints takes too, every attachment is switched
atomically, the pins are renamed over the old ones, and the state file is written last. Packets always meet
either the old or the new program. Whatever a crash leaves behind, the state file does not describe it, so the
next ``apply`` loads again and finishes the work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace

from podwire.bpf import Program
from podwire.net import netns

from . import bpffs, netfilter, sockets, state
from .attach import Attacher, Attachments, ClsactAttacher, TcxAttacher
from .config import DatapathConfig
from .devices import device_name, exists
from .errors import DatapathError
from .hooks import DEVICE_HOOKS, ENDPOINT_HOOKS, HOOKS, PROGRAMS, SOCKET_PROGRAMS, CgroupHook, Hook
from .kernel import CLSACT, LEGACY, TCX, Features, decide_attach, decide_host_routing
from .loader import NEW, Loaded, ObjectSet, Opened, Request, load, opened
from .lock import exclusive
from .place import Place
from .report import Changes
from .status import summary

_NOT_SERVED = "services are not translated in sockets, only in packets: {reason}"
_NO_COOKIE = (
    "kernel {release} does not tell which network namespace this is (SO_NETNS_COOKIE, Linux 5.14): the "
    "kernel's first one counts as the host's"
)


class Apply:
    """One run of ``Datapath.apply``; its caller holds the lock that keeps runs apart."""

    def __init__(
        self,
        place: Place,
        config: DatapathConfig,
        objects: ObjectSet,
        indexes: dict[str, int],
        features: Features,
    ) -> None:
        self._place = place
        self._pins = place.pins
        self._objects = objects
        self._indexes = indexes
        self._known = state.read(place.state_file)
        mode, reason = decide_host_routing(config.host_routing, features)
        self._attach_kind = decide_attach(config.attach, features)
        self._sockets = sockets.decide(config.services, features, place.cgroup)
        cookie = netns.cookie() if config.services.enabled else None
        self._request = Request(
            constants=config.constants(mode, cookie or 0),
            map_entries=config.map_entries,
            inner_sizes=config.inner_value_sizes(),
            sockets=self._sockets.directory is not None,
        )
        self._wanted = state.State(
            objects=str(objects.directory),
            config=config,
            devices=tuple(sorted(indexes)),
            digest=objects.digest(self._request.constants, config.map_entries),
            attach=self._attach_kind,
            host_routing=mode,
            reason=reason,
            qdiscs=self._known.qdiscs if self._known else (),
            mounted=bool(self._known and self._known.mounted),
            features=features.to_dict(),
            sysctls=self._known.sysctls if self._known else (),
            cgroup=str(self._sockets.directory or ""),
            sockets_reason=self._sockets.reason,
        )
        self._strict = netfilter.strict() if mode == LEGACY else []
        self._notes = [f"host routing is {mode}, not {config.host_routing}: {reason}"] if reason else []
        if config.services.enabled and cookie is None:
            self._notes.append(_NO_COOKIE.format(release=features.release))
        if self._sockets.reason:
            self._notes.append(_NOT_SERVED.format(reason=self._sockets.reason))

    # -- deciding ----------------------------------------------------------------------------------

    def _programs_current(self) -> bool:
        """Were the pinned programs loaded from what is wanted, and are all maps still pinned?"""
        if self._known is None or self._known.digest != self._wanted.digest:
            return False
        pinned = self._pins.program_ids()
        return pinned.keys() == self._request.programs and pinned == self._known.programs

    def _missing_maps(self, plan: Opened) -> bool:
        return bool(plan.create or plan.recreate)

    def _load_steps(self, plan: Opened, reload: bool) -> list[str]:
        steps = [f"create map {name}" for name in plan.create]
        steps += [f"recreate map {name}: {why}" for name, why in plan.recreate.items()]
        if reload:
            verb = "replace" if self._known and self._pins.program_ids() else "load"
            steps += [f"{verb} program {name}" for name in _in_order(self._request.programs)]
        steps += [f"remove program {name}" for name in self._unwanted_programs()]
        steps += [f"remove map {name}: nothing uses it" for name in plan.unused]
        return steps

    def _unwanted_programs(self) -> list[str]:
        return _in_order(self._pins.program_ids().keys() - self._request.programs)

    def _attach_steps(self, reload: bool) -> list[tuple[str, int, Hook]]:
        """What to attach: (sentence, ifindex, hook). Replaced programs are attached everywhere again."""
        have: Attachments = {}
        foreign: Attachments = {}
        if self._pins.root.is_dir() or self._attach_kind == CLSACT:
            have = self._attacher().attached()
            foreign = self._other_attacher().attached() if self._kind_changed() else {}
        pinned = {} if reload else self._pins.program_ids()
        wanted: dict[tuple[int, str], str] = {}
        for ifindex, hook_name in {**foreign, **have}:
            if HOOKS[hook_name] in ENDPOINT_HOOKS:
                wanted[ifindex, hook_name] = device_name(ifindex)
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
            (f"detach {hook} from {device_name(ifindex)}", ifindex, HOOKS[hook])
            for ifindex, hook in sorted(have)
            if HOOKS[hook] in DEVICE_HOOKS and ifindex not in self._indexes.values()
        ]

    def _kind_changed(self) -> bool:
        return self._known is not None and self._known.attach != self._attach_kind

    def _attacher(self) -> TcxAttacher | ClsactAttacher:
        return self._place.attacher(self._wanted)

    def _other_attacher(self) -> TcxAttacher | ClsactAttacher:
        other = TCX if self._attach_kind == CLSACT else CLSACT
        return self._place.attacher(replace(self._wanted, attach=other))

    def _settings_steps(self) -> list[str]:
        """Changes that need no new program but are remembered (a mode the kernel cannot do)."""
        known = self._known
        if known is None:
            return []
        before, after = summary(known), summary(self._wanted)
        names = [name for name in after if before.get(name) != after[name]]
        return [
            f"remember {name}: {after[name]}"
            for name in names
            if name in ("objects", "requested_host_routing", "sockets")
        ]

    def _socket_attach_steps(self, reload: bool) -> list[tuple[str, CgroupHook]]:
        pinned = {} if reload else self._pins.program_ids()
        return sockets.attach_steps(self._sockets, self._place.sockets().attached(), pinned)

    def _socket_detach_steps(self) -> list[tuple[str, CgroupHook]]:
        return sockets.detach_steps(self._sockets, self._place.sockets().attached())

    def _netfilter_steps(self) -> list[str]:
        return [f"set {netfilter.shown(name)} to 1" for name in self._strict]

    # -- doing -------------------------------------------------------------------------------------

    def _open(self) -> contextlib.AbstractContextManager[Opened]:
        return opened(self._objects, self._request, self._pins.maps)

    def _result(self, steps: list[str]) -> Changes:
        before = summary(self._known)
        return Changes(steps, before, summary(self._wanted), self._notes)

    def dry(self) -> Changes:
        with self._open() as plan:
            reload = self._missing_maps(plan) or not self._programs_current()
            steps = self._load_steps(plan, reload)
        steps += [text for text, _, _ in [*self._attach_steps(reload), *self._detach_steps()]]
        steps += [text for text, _ in [*self._socket_attach_steps(reload), *self._socket_detach_steps()]]
        steps += self._netfilter_steps()
        return self._result(steps or self._settings_steps())

    def run(self) -> Changes:
        state.check_writable(self._place.state_file, self._wanted)
        self._prepare_pins()
        with contextlib.ExitStack() as stack:
            plan = stack.enter_context(self._open())
            reload = self._missing_maps(plan) or not self._programs_current()
            steps = self._load_steps(plan, reload)
            loaded = stack.enter_context(load(plan, self._pins.maps)) if reload else None
            if loaded:
                self._notes += loaded.notes
                self._wanted = replace(self._wanted, recreated=dict(plan.recreate))
            for name in self._strict:  # before the first packet takes the other way
                netfilter.set_lenient(name)
            steps += self._switch(plan, loaded)
            steps += self._netfilter_steps()
        if self._known is not None and not reload:
            self._wanted = replace(self._wanted, recreated=self._known.recreated)
        ours = dict.fromkeys([*self._wanted.sysctls, *self._strict])
        self._wanted = replace(self._wanted, sysctls=tuple(ours))
        result = steps or self._settings_steps()
        if self._known != self._wanted:
            state.write(self._place.state_file, self._wanted)
        return self._result(result)

    def _prepare_pins(self) -> None:
        mounted = bpffs.ensure(self._pins.root)
        self._wanted = replace(self._wanted, mounted=self._wanted.mounted or mounted)
        try:
            self._pins.create_folders()
        except OSError as error:
            raise DatapathError(f"cannot create {error.filename}: {error.strerror}") from error
        self._pins.remove_leftovers()

    def _switch(self, plan: Opened, loaded: Loaded | None) -> list[str]:
        """The critical part: what happens here is short, and safe to repeat."""
        pins = self._pins
        with exclusive(self._place.attach_lock), contextlib.ExitStack() as stack:
            attacher = self._attacher()
            attacher.sweep()
            attach, detach = self._attach_steps(loaded is not None), self._detach_steps()
            if loaded:
                programs = loaded.programs
                for name, program in programs.items():
                    program.pin(pins.programs / f"{name}{NEW}")
            else:
                wanted = self._request.programs
                programs = {name: stack.enter_context(self._pins.program(name)) for name in wanted}
            for _, ifindex, hook in attach:
                self._attach_one(attacher, ifindex, hook, programs[hook.program])
            if self._kind_changed():
                self._detach_other_kind()
            for _, ifindex, hook in detach:
                attacher.detach(ifindex, hook)
            steps = [text for text, _, _ in [*attach, *detach]]
            steps += self._switch_sockets(programs, reload=loaded is not None)
            if loaded:
                for name in plan.recreate:
                    (pins.maps / f"{name}{NEW}").rename(pins.maps / name)
                for name in programs:
                    (pins.programs / f"{name}{NEW}").rename(pins.programs / name)
            for name in self._unwanted_programs():
                (pins.programs / name).unlink(missing_ok=True)
            for name in plan.unused:
                (pins.maps / name).unlink(missing_ok=True)
            qdiscs = tuple(sorted(attacher.owned)) if isinstance(attacher, ClsactAttacher) else ()
            ids = {name: program.id for name, program in programs.items()}
            self._wanted = replace(self._wanted, programs=ids, qdiscs=qdiscs)
        return steps

    def _switch_sockets(self, programs: dict[str, Program], *, reload: bool) -> list[str]:
        """A node whose sockets cannot be served still gets the rest: packets are translated all the same."""
        attacher, steps = self._place.sockets(), []
        for text, hook in self._socket_attach_steps(reload):
            assert self._sockets.directory is not None
            try:
                attacher.attach(hook, programs[hook.program], self._sockets.directory)
            except DatapathError as error:
                self._notes.append(_NOT_SERVED.format(reason=error))
                self._wanted = replace(self._wanted, cgroup="", sockets_reason=str(error))
                break
            steps.append(text)
        for text, hook in self._socket_detach_steps():
            attacher.detach(hook)
            steps.append(text)
        return steps

    def _attach_one(self, attacher: Attacher, ifindex: int, hook: Hook, program: Program) -> None:
        try:
            attacher.attach(ifindex, hook, program)
        except DatapathError:
            if hook in ENDPOINT_HOOKS and not exists(ifindex):
                return  # the pod went away meanwhile
            raise

    def _detach_other_kind(self) -> None:
        other = self._other_attacher()
        for ifindex, hook_name in other.attached():
            other.detach(ifindex, HOOKS[hook_name])
        other.sweep()


def _in_order(programs: Collection[str]) -> list[str]:
    return [name for name in (*PROGRAMS, *SOCKET_PROGRAMS) if name in programs]
