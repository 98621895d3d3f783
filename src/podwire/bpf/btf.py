"""Read BTF, the type information inside BPF objects and the kernel. Pure: bytes in, types out.

Only what user space needs to talk to maps and constants: sizes, names, members, arrays, variables.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from .errors import LayoutError

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MAX_DEPTH = 32


class Kind(enum.IntEnum):
    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_MODIFIERS = {Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}


@dataclass(frozen=True, slots=True)
class Member:
    """``offset`` in bytes; ``bits`` is the width of a bit field, 0 for an ordinary member."""

    name: str
    type_id: int
    offset: int
    bits: int = 0


@dataclass(frozen=True, slots=True)
class BtfType:
    """One type. ``size`` in bytes, ``ref`` the type referred to, ``count`` of an array's elements."""

    id: int
    kind: Kind
    name: str
    size: int = 0
    ref: int = 0
    count: int = 0
    signed: bool = False
    boolean: bool = False
    members: tuple[Member, ...] = ()
    values: dict[str, int] = field(default_factory=dict)


class Btf:
    """All types of one BTF blob, by id and by name."""

    def __init__(self, data: bytes) -> None:
        """Parse ``data``; raises LayoutError when it is not little-endian BTF version 1."""
        if len(data) < _HEADER.size:
            raise LayoutError("BTF", "shorter than its header")
        magic, version, _flags, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise LayoutError("BTF", f"bad magic {magic:#x} or version {version}")
        self._strings = data[header + str_off : header + str_off + str_len]
        self._types: list[BtfType] = [BtfType(0, Kind.VOID, "void")]
        self._parse(data[header + type_off : header + type_off + type_len])

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _parse(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            name, info, size_or_type = _TYPE.unpack_from(data, position)
            position += _TYPE.size
            try:
                kind = Kind(info >> 24 & 0x1F)
            except ValueError:
                raise LayoutError("BTF", f"unknown kind {info >> 24 & 0x1F}") from None
            extra = _extra_size(kind, info & 0xFFFF)
            self._types.append(
                self._decode(kind, name, info, size_or_type, data[position : position + extra])
            )
            position += extra

    def _decode(self, kind: Kind, name_offset: int, info: int, word: int, extra: bytes) -> BtfType:  # noqa: PLR0911
        number, name, count = len(self._types), self._string(name_offset), info & 0xFFFF
        if kind is Kind.INT:
            encoding = struct.unpack("<I", extra)[0] >> 24
            return BtfType(number, kind, name, word, signed=bool(encoding & 1), boolean=bool(encoding & 4))
        if kind is Kind.ARRAY:
            element, _index, length = struct.unpack("<III", extra)
            return BtfType(number, kind, name, ref=element, count=length)
        if kind in (Kind.STRUCT, Kind.UNION):
            bitfields = bool(info >> 31)
            members = []
            for member_name, type_id, offset in struct.iter_unpack("<III", extra):
                bits = offset >> 24 if bitfields else 0
                bit_offset = offset & 0xFFFFFF if bitfields else offset
                members.append(Member(self._string(member_name), type_id, bit_offset // 8, bits))
            return BtfType(number, kind, name, word, members=tuple(members))
        if kind in (Kind.ENUM, Kind.ENUM64):
            return BtfType(number, kind, name, word, signed=bool(info >> 31), values=self._enum(kind, extra))
        if kind is Kind.DATASEC:
            members = [
                Member(self._types[var].name if var < len(self._types) else "", var, offset)
                for var, offset, _size in struct.iter_unpack("<III", extra)
            ]
            return BtfType(number, kind, name, word, members=tuple(members), count=count)
        if kind in (Kind.FLOAT, Kind.FWD):
            return BtfType(number, kind, name, word)
        return BtfType(number, kind, name, ref=word)

    def _enum(self, kind: Kind, extra: bytes) -> dict[str, int]:
        if kind is Kind.ENUM:
            return {self._string(name): value for name, value in struct.iter_unpack("<Ii", extra)}
        return {self._string(name): low | high << 32 for name, low, high in struct.iter_unpack("<III", extra)}

    def __getitem__(self, type_id: int) -> BtfType:
        return self._types[type_id]

    def __len__(self) -> int:
        return len(self._types)

    def find(self, name: str, *kinds: Kind) -> BtfType | None:
        """The first type of that name (and of one of ``kinds``, when given)."""
        return next((t for t in self._types if t.name == name and (not kinds or t.kind in kinds)), None)

    def resolve(self, type_id: int) -> tuple[BtfType, tuple[str, ...]]:
        """The type behind typedefs and qualifiers, and the typedef names met on the way, outermost first."""
        names: list[str] = []
        found = self._types[type_id]
        for _ in range(_MAX_DEPTH):
            if found.kind is Kind.TYPEDEF:
                names.append(found.name)
            elif found.kind not in _MODIFIERS:
                return found, tuple(names)
            found = self._types[found.ref]
        raise LayoutError(f"BTF type {type_id}", "typedefs nested too deep")

    def size_of(self, type_id: int) -> int:
        """Size in bytes of a complete type."""
        found, _ = self.resolve(type_id)
        if found.kind is Kind.ARRAY:
            return found.count * self.size_of(found.ref)
        return 8 if found.kind is Kind.PTR else found.size

    def variables(self, section: str) -> dict[str, Member]:
        """Variables of a data section (``.rodata``, ``.bss``): offset in it and the variable's type."""
        found = self.find(section, Kind.DATASEC)
        if found is None:
            return {}
        result = {}
        for entry in found.members:
            variable = self._types[entry.type_id]
            result[variable.name] = Member(variable.name, variable.ref, entry.offset)
        return result

    def enum_values(self) -> dict[str, int]:
        """Every enumerator of every enum, by name."""
        return {name: value for found in self._types for name, value in found.values.items()}


def _extra_size(kind: Kind, count: int) -> int:
    if kind in (Kind.INT, Kind.VAR, Kind.DECL_TAG):
        return 4
    if kind is Kind.ARRAY:
        return 12
    if kind in (Kind.STRUCT, Kind.UNION, Kind.DATASEC, Kind.ENUM64):
        return 12 * count
    if kind in (Kind.ENUM, Kind.FUNC_PROTO):
        return 8 * count
    return 0
