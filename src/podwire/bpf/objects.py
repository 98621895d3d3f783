"""BPF object files: open, set constants and map sizes, share pinned maps, load."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._ffi import collect_messages, ffi, last_errno, lib
from .btf import Btf
from .closing import Closing
from .codec import Codec, codec_for
from .errors import BpfError, LoadError
from .maps import Map, map_type_name
from .programs import Program

if TYPE_CHECKING:
    from typing_extensions import Self

_RODATA = ".rodata"


@dataclass(frozen=True, slots=True)
class MapDeclaration:
    """A map as the object file declares it. Sizes in bytes."""

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    key_fields: tuple[str, ...] = ()
    value_fields: tuple[str, ...] = ()

    @property
    def type_name(self) -> str:
        return map_type_name(self.type)


class BpfObject(Closing):
    """One object file, from opening to the loaded programs. Use it as a context manager.

    Programs and maps handed out own duplicates of the descriptors, so they outlive the object.
    """

    def __init__(self, pointer: Any, label: str) -> None:
        self._pointer = pointer
        self.label = label
        self._loaded = False
        self._field_names: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Parse an object file; raises LoadError."""
        with collect_messages() as messages:
            pointer = lib().bpf_object__open_file(os.fsencode(path), ffi.NULL)
            number = ffi.errno
        if pointer == ffi.NULL:
            raise LoadError(str(path), number, "".join(messages))
        return cls(pointer, path.name)

    def close(self) -> None:
        """Free the object; programs that are pinned or attached live on."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib().bpf_object__close(pointer)

    @functools.cached_property
    def btf(self) -> Btf:
        """Type information of the object."""
        btf = lib().bpf_object__btf(self._pointer)
        if btf == ffi.NULL:
            raise BpfError("read", f"type information of {self.label}: compile it with -g")
        size = ffi.new("__u32 *")
        data = lib().btf__raw_data(btf, size)
        return Btf(bytes(ffi.buffer(data, size[0])))

    # -- before loading ----------------------------------------------------------------------------

    @functools.cached_property
    def constants(self) -> dict[str, Codec]:
        """Load-time constants (``const volatile`` variables): name and converter."""
        return {name: codec_for(self.btf, entry.type_id) for name, entry in self._variables.items()}

    @functools.cached_property
    def _variables(self) -> Any:
        return self.btf.variables(_RODATA)

    def set_constants(self, values: Mapping[str, Any]) -> None:
        """Set load-time constants by name; raises BpfError for a name the object does not declare."""
        for name, value in values.items():
            entry = self._variables.get(name)
            if entry is None:
                known = f"it declares {sorted(self._variables)}"
                raise BpfError("set", f"constant {name} of {self.label}", detail=known)
            codec = self.constants[name]
            self._rodata()[entry.offset : entry.offset + codec.size] = codec.encode(value)

    def get_constant(self, name: str) -> Any:
        """Value a constant has now (the file's default, or what was set)."""
        entry = self._variables[name]
        codec = self.constants[name]
        return codec.decode(self._rodata()[entry.offset : entry.offset + codec.size])

    def _rodata(self) -> Any:
        for pointer in self._maps().values():
            name = ffi.string(lib().bpf_map__name(pointer)).decode()
            if lib().bpf_map__is_internal(pointer) and name.endswith(_RODATA):
                size = ffi.new("size_t *")
                data = lib().bpf_map__initial_value(pointer, size)
                return ffi.buffer(ffi.cast("char *", data), size[0])
        raise BpfError("find", f"section {_RODATA} of {self.label}")

    def declarations(self) -> dict[str, MapDeclaration]:
        """Maps the object declares (not the ones behind its variables)."""
        internal = lib().bpf_map__is_internal
        return {
            name: self._declaration(name, pointer)
            for name, pointer in self._maps().items()
            if not internal(pointer)
        }

    def _declaration(self, name: str, pointer: Any) -> MapDeclaration:
        api = lib()
        key_fields, value_fields = self._fields(name, pointer)
        return MapDeclaration(
            name=name,
            type=api.bpf_map__type(pointer),
            key_size=api.bpf_map__key_size(pointer),
            value_size=api.bpf_map__value_size(pointer),
            max_entries=api.bpf_map__max_entries(pointer),
            flags=api.bpf_map__map_flags(pointer),
            key_fields=key_fields,
            value_fields=value_fields,
        )

    def _fields(self, name: str, pointer: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Field names of a map's key and value, remembered: sharing a map replaces the object's type ids with
        those of the other map's type information."""
        if name not in self._field_names:
            api = lib()
            ids = (api.bpf_map__btf_key_type_id(pointer), api.bpf_map__btf_value_type_id(pointer))
            key, value = (codec_for(self.btf, number).fields if number else () for number in ids)
            self._field_names[name] = (key, value)
        return self._field_names[name]

    def set_max_entries(self, name: str, entries: int) -> None:
        """Change the size of a declared map."""
        result = lib().bpf_map__set_max_entries(self._map(name), entries)
        if result < 0:
            raise BpfError("resize", f"map {name} of {self.label}", last_errno(result))

    def set_inner_value_size(self, name: str, size: int) -> None:
        """Change the size in bytes of the values of the maps that a declared map of maps holds."""
        inner = lib().bpf_map__inner_map(self._map(name))
        if inner == ffi.NULL:
            raise BpfError(
                "resize", f"the inner maps of {name} of {self.label}", detail="it is no map of maps"
            )
        result = lib().bpf_map__set_value_size(inner, size)
        if result < 0:
            raise BpfError("resize", f"the inner maps of {name} of {self.label}", last_errno(result))

    def reuse_map(self, name: str, existing: Map) -> None:
        """Use ``existing`` in place of a new map; raises BpfError when the kernel's description differs."""
        pointer = self._map(name)
        self._fields(name, pointer)
        result = lib().bpf_map__reuse_fd(pointer, existing.fd)
        if result < 0:
            raise BpfError("share", f"map {existing.label} as {name} of {self.label}", last_errno(result))

    # -- loading -----------------------------------------------------------------------------------

    def load(self) -> None:
        """Create the maps and load all programs; raises LoadError with the verifier's last lines."""
        for pointer in self._maps().values():
            lib().bpf_map__set_pin_path(pointer, ffi.NULL)  # pins are the caller's business
        with collect_messages() as messages:
            result = lib().bpf_object__load(self._pointer)
        if result < 0:
            raise LoadError(self.label, last_errno(result), "".join(messages))
        self._loaded = True

    @functools.cached_property
    def program_names(self) -> tuple[str, ...]:
        """Names of the programs, in the order of the file."""
        return tuple(self._programs())

    def program(self, name: str) -> Program:
        """A loaded program; raises BpfError for an unknown name."""
        pointer = self._programs().get(name)
        if pointer is None or not self._loaded:
            known = f"it has {list(self._programs())}"
            raise BpfError("find", f"program {name} in {self.label}", detail=known)
        return Program(os.dup(lib().bpf_program__fd(pointer)), name, self.btf)

    def map(self, name: str) -> Map:
        """A loaded map, typed by the object's own type information."""
        return Map(os.dup(lib().bpf_map__fd(self._map(name))), name)

    def _programs(self) -> dict[str, Any]:
        found, pointer = {}, ffi.NULL
        while (pointer := lib().bpf_object__next_program(self._pointer, pointer)) != ffi.NULL:
            found[ffi.string(lib().bpf_program__name(pointer)).decode()] = pointer
        return found

    def _maps(self) -> dict[str, Any]:
        found, pointer = {}, ffi.NULL
        while (pointer := lib().bpf_object__next_map(self._pointer, pointer)) != ffi.NULL:
            found[ffi.string(lib().bpf_map__name(pointer)).decode()] = pointer
        return found

    def _map(self, name: str) -> Any:
        found = self._maps()
        if name not in found:
            raise BpfError("find", f"map {name} in {self.label}", detail=f"it has {list(found)}")
        return found[name]
