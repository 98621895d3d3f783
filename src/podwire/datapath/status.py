"""Compare what the kernel holds with what was applied."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from podwire.bpf import Map

from . import state
from .attach import Attachments
from .devices import device_name, find_index
from .errors import NotInstalled
from .hooks import CGROUP_HOOKS, DEVICE_HOOKS, ENDPOINT_HOOKS, HOOKS, PROGRAMS, SOCKET_PROGRAMS
from .pins import Pins
from .place import Place
from .report import DatapathStatus, MapStatus, ProgramStatus

ABSENT: dict[str, Any] = {"installed": False}
_COUNTERLESS = {"ringbuf"}


def summary(known: state.State | None) -> dict[str, Any]:
    """What a diff shows: stable between runs that change nothing."""
    if known is None:
        return dict(ABSENT)
    return {
        "installed": True,
        "objects": known.objects,
        "digest": known.digest,
        "host_routing": known.host_routing,
        "requested_host_routing": known.config.host_routing,
        "reason": known.reason,
        "attach": known.attach,
        "devices": list(known.devices),
        "sockets": known.cgroup or known.sockets_reason or "not served",
        "config": known.config.to_dict(),
    }


def read_status(place: Place, open_map: Callable[[str], Map], count_entries: bool) -> DatapathStatus:
    """The whole picture. ``open_map`` gives a pinned map by name."""
    known = state.read(place.state_file)
    release = os.uname().release
    if known is None:
        return DatapathStatus(installed=False, kernel=release, problems=["no datapath was applied"])
    attachments = place.attacher(known).attached()
    problems: list[str] = []
    programs = _programs(place.pins, attachments, known, problems)
    sockets = _sockets(place, known, programs, problems)
    return DatapathStatus(
        installed=bool(programs),
        kernel=release,
        mode=known.host_routing,
        requested=known.config.host_routing,
        reason=known.reason,
        attach=known.attach,
        objects=known.objects,
        digest=known.digest,
        devices=_devices(known, attachments, problems),
        sockets=sockets,
        endpoints=sorted({i for i, hook in attachments if HOOKS[hook] in ENDPOINT_HOOKS}),
        programs=programs,
        maps=[_map(name, open_map(name), count_entries) for name in place.pins.map_names()],
        features=known.features,
        config=known.config.to_dict(),
        recreated_maps=known.recreated,
        problems=problems,
    )


def _programs(
    pins: Pins, attachments: Attachments, known: state.State, problems: list[str]
) -> list[ProgramStatus]:
    result = []
    for name in (*PROGRAMS, *(name for name in SOCKET_PROGRAMS if name in known.programs)):
        try:
            with pins.program(name) as program:
                info = program.info
        except NotInstalled as error:
            problems.append(error.cause)
            continue
        if known.programs.get(name) != info.id:
            problems.append(f"program {name} is not the one that was applied")
        attached: list[int] = []
        if name in PROGRAMS:
            hook = PROGRAMS[name]
            attached = sorted(i for (i, where), number in attachments.items() if where == hook.name)
            stale = [i for i in attached if attachments[i, hook.name] != info.id]
            problems += [f"{hook.name} of {device_name(i)} runs an old program" for i in stale]
        result.append(
            ProgramStatus(
                name, info.id, info.tag, attached, info.xlated_bytes, info.jited_bytes,
                info.run_time_ns, info.run_count,
            )
        )  # fmt: skip
    return result


def _sockets(
    place: Place, known: state.State, programs: list[ProgramStatus], problems: list[str]
) -> dict[str, Any]:
    have = place.sockets().attached()
    ids = {program.name: program.id for program in programs}
    reason = known.sockets_reason
    if reason:
        problems.append(f"services are not translated in sockets: {reason}")
    elif known.cgroup:
        where = f"control group {known.cgroup}"
        missing = [hook.name for hook in CGROUP_HOOKS if hook.name not in have]
        stale = [
            hook.name
            for hook in CGROUP_HOOKS
            if hook.name in have and have[hook.name].program_id != ids.get(hook.program)
        ]
        problems += [f"{name} is not attached to {where}" for name in missing]
        problems += [f"{name} of {where} runs an old program" for name in stale]
        reason = f"{', '.join(missing)} not attached to {where}" if missing else ""
    return {
        "enabled": known.config.services.enabled,
        "cgroup": known.cgroup,
        "attached": sorted(have),
        "reason": reason,
    }


def _devices(known: state.State, attachments: Attachments, problems: list[str]) -> list[dict[str, Any]]:
    result = []
    for name in known.devices:
        ifindex = find_index(name)
        if ifindex is None:
            problems.append(f"device {name} does not exist")
            continue
        hooks = [hook.name for hook in DEVICE_HOOKS if (ifindex, hook.name) in attachments]
        missing = [hook.name for hook in DEVICE_HOOKS if hook.name not in hooks]
        problems += [f"{hook} is not attached to device {name}" for hook in missing]
        result.append({"name": name, "ifindex": ifindex, "hooks": sorted(hooks)})
    return result


def _map(name: str, found: Map, count_entries: bool) -> MapStatus:
    info = found.info
    entries = len(found) if count_entries and info.type_name not in _COUNTERLESS else None
    return MapStatus(name, info.id, info.type_name, entries, info.max_entries, info.key_size, info.value_size)
