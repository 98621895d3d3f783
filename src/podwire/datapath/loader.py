"""Load a set of object files over the pinned maps. Nothing is attached, no pin in use is touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podwire.bpf import BpfError, BpfObject, LoadError, Map, MapDeclaration, Program

from . import layout, maglev
from .errors import DatapathError
from .hooks import PROGRAMS, SOCKET_PROGRAMS

OBJECTS = ("endpoint.bpf.o", "host.bpf.o", "socket.bpf.o")
SOCKET_OBJECT = "socket.bpf.o"
MANIFEST = "manifest.json"
NEW = "-new"  # bpffs allows no dots in names
"""Suffix of pins that a running change makes; leftovers of an interrupted one are removed by the next."""


@dataclass(frozen=True)
class ObjectSet:
    """The objects of one build, checked against their manifest."""

    directory: Path
    manifest: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> ObjectSet:
        """Raises DatapathError when a file is missing or is not what the manifest says."""
        hint = "Run the role podwire.ebpf.datapath, which builds and copies them."
        try:
            manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
            recorded: dict[str, str] = manifest["objects"]
        except FileNotFoundError as error:
            raise DatapathError(
                f"there are no datapath objects in {directory}: {error.strerror}", hint
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatapathError(f"cannot read {directory / MANIFEST}: {error}", hint) from None
        for name in OBJECTS:
            path = directory / name
            found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing"
            if found != recorded.get(name):
                raise DatapathError(
                    f"{path} is damaged: its checksum is {found[:16]}, the manifest says "
                    f"{str(recorded.get(name))[:16]}",
                    "Copy the objects to the node again.",
                )
        return cls(directory, manifest)

    def digest(self, constants: Mapping[str, Any], map_entries: Mapping[str, int]) -> str:
        """Stands for everything that goes into a load."""
        parts = {
            "objects": self.manifest["objects"],
            "constants": {name: str(value) for name, value in constants.items()},
            "maps": dict(map_entries),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass
class Opened:
    """Opened objects with constants and sizes set, and what has to happen to each pinned map.

    ``unused`` are pinned maps that none of the objects has: of an earlier build, or of what is now off."""

    objects: list[BpfObject]
    declarations: dict[str, MapDeclaration]
    programs: frozenset[str]
    create: list[str] = field(default_factory=list)
    recreate: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What to load: ``constants`` by name, ``map_entries`` where they differ from the objects',
    ``inner_sizes`` (bytes of a value) of the maps in maps of maps, and whether ``sockets`` are served."""

    constants: Mapping[str, Any]
    map_entries: Mapping[str, int]
    inner_sizes: Mapping[str, int]
    sockets: bool

    @property
    def programs(self) -> frozenset[str]:
        """Names of the programs that are wanted."""
        return frozenset([*PROGRAMS, *(SOCKET_PROGRAMS if self.sockets else ())])


@contextlib.contextmanager
def opened(objects: ObjectSet, request: Request, maps: Path) -> Iterator[Opened]:
    """Open the objects, set what is known, compare their maps with the pinned ones in ``maps``."""
    with contextlib.ExitStack() as stack:
        result = Opened([], {}, request.programs)
        constants: set[str] = set()
        declarations: set[str] = set()
        for name in OBJECTS:
            item = stack.enter_context(_open(objects.directory / name))
            constants |= item.constants.keys()
            declarations |= item.declarations().keys()
            if name != SOCKET_OBJECT or request.sockets:
                _prepare(item, request)
                for declared in item.declarations().values():
                    _same_in_all(result.declarations.setdefault(declared.name, declared), declared)
                result.objects.append(item)
        _all_known("constants", set(request.constants) - constants, objects)
        _all_known("maps", set(request.map_entries) - declarations, objects)
        for name, declared in sorted(result.declarations.items()):
            pin = maps / name
            if not pin.exists():
                result.create.append(name)
                continue
            why = _mismatch(pin, declared, request)
            if why:
                result.recreate[name] = why
        there = sorted(path.name for path in maps.iterdir()) if maps.is_dir() else []
        result.unused = [name for name in there if name not in result.declarations and not name.endswith(NEW)]
        yield result


def _prepare(item: BpfObject, request: Request) -> None:
    """Set constants and sizes, as far as the object knows them."""
    known = item.constants
    item.set_constants({name: value for name, value in request.constants.items() if name in known})
    declared = item.declarations()
    for name in declared.keys() & request.map_entries.keys():
        item.set_max_entries(name, request.map_entries[name])
    for name in declared.keys() & request.inner_sizes.keys():
        item.set_inner_value_size(name, request.inner_sizes[name])


def _mismatch(pin: Path, declared: MapDeclaration, request: Request) -> str:
    with Map.pinned(pin) as have:
        why = layout.mismatch(declared, declared.max_entries, have)
        if not why and declared.name in request.inner_sizes:
            size = request.inner_sizes[declared.name]
            why = "" if maglev.fits(have, size) else f"its tables become {size} bytes large"
    return why


@dataclass
class Loaded:
    """Programs by name (to be attached) and notes about maps that were made anew."""

    programs: dict[str, Program]
    notes: list[str]


@contextlib.contextmanager
def load(plan: Opened, maps: Path) -> Iterator[Loaded]:
    """Load the programs.

    New maps are pinned at once, recreated ones as ``NAME-new`` with their content copied.
    Raises DatapathError with the verifier's last lines.
    """
    with contextlib.ExitStack() as stack:
        shared: dict[str, Map] = {}
        for name in plan.declarations:
            if name not in plan.create and name not in plan.recreate:
                shared[name] = stack.enter_context(Map.pinned(maps / name))
        result = Loaded({}, [])
        for item in plan.objects:
            own = item.declarations()
            for name in own.keys() & shared.keys():
                item.reuse_map(name, shared[name])
            _load(item)
            for name in own.keys() - shared.keys():
                created = stack.enter_context(item.map(name))
                shared[name] = created
                if name in plan.recreate:
                    created.pin(maps / f"{name}{NEW}")
                    result.notes.append(_take_over(maps / name, created, plan.recreate[name]))
                else:
                    created.pin(maps / name)
            for name in item.program_names:
                if name in plan.programs:
                    result.programs[name] = stack.enter_context(item.program(name))
        missing = plan.programs - result.programs.keys()
        if missing:
            raise DatapathError(f"the datapath objects lack the programs {', '.join(sorted(missing))}")
        yield result


def _take_over(pin: Path, created: Map, why: str) -> str:
    with Map.pinned(pin) as old:
        copied, problem = layout.copy(old, created)
    kept = f"{copied} entries kept" + (f"; {problem}" if problem else "")
    return f"map {pin.name} made anew: {why} ({kept})"


def _open(path: Path) -> BpfObject:
    try:
        return BpfObject.open(path)
    except LoadError as error:
        raise DatapathError(str(error), "Build the objects again with clang 11 or newer.") from error


def _load(item: BpfObject) -> None:
    try:
        item.load()
    except LoadError as error:
        raise DatapathError(
            str(error),
            "The lines above are the kernel's reasons. What was in place is untouched.",
        ) from error
    except BpfError as error:
        raise DatapathError(str(error)) from error


def _same_in_all(first: MapDeclaration, other: MapDeclaration) -> None:
    if first != other:
        raise DatapathError(
            f"the objects disagree about map {first.name}: {first} and {other}", "Build all objects together."
        )


def _all_known(what: str, unknown: set[str], objects: ObjectSet) -> None:
    if unknown:
        raise DatapathError(
            f"the objects in {objects.directory} have no {what} named {', '.join(sorted(unknown))}",
            "Objects and podwire must be of the same release.",
        )
