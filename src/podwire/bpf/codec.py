"""Turn C values into Python values and back, by their BTF. Pure.

- structs become dicts; anonymous members are merged into their parent; every member of a union is shown,
  and any one of them may be given;
- ``__be16``/``__be32``/``__be64`` are shown in host order: an address is ``int(ip_address(...))``, a port the
  number people know; everything else is little-endian as the machine has it;
- arrays of single bytes (MAC addresses, names) are ``bytes``, other arrays lists;
- a dict may leave fields out (they are 0) but an unknown name is an error, so typing mistakes surface.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .btf import Btf, BtfType, Kind
from .errors import LayoutError

_BIG_ENDIAN = {"__be16": ">H", "__be32": ">I", "__be64": ">Q"}
_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}

Decode = Callable[["memoryview | bytes | bytearray", int], Any]
Encode = Callable[[bytearray, int, Any], None]


@dataclass(frozen=True, slots=True)
class Codec:
    """Converter for one type; ``size`` in bytes, ``name`` for messages, ``fields`` of a struct in order."""

    name: str
    size: int
    fields: tuple[str, ...]
    _decode: Decode
    _encode: Encode

    def decode(self, data: bytes | memoryview) -> Any:
        """Value of ``data``; raises LayoutError when it is shorter than the type."""
        if len(data) < self.size:
            raise LayoutError(self.name, f"{len(data)} bytes given, the type has {self.size}")
        return self._decode(data, 0)

    def encode(self, value: Any) -> bytes:
        """Bytes of ``value``; raises LayoutError naming the field that does not fit."""
        buffer = bytearray(self.size)
        self._encode(buffer, 0, value)
        return bytes(buffer)


def codec_for(btf: Btf, type_id: int) -> Codec:
    """Build the converter of a type."""
    found, names = btf.resolve(type_id)
    label = names[0] if names else (found.name or f"type {type_id}")
    if found.kind in (Kind.STRUCT, Kind.UNION):
        return _aggregate(btf, found, label)
    if found.kind is Kind.ARRAY:
        return _array(btf, found, label)
    if found.kind in (Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.PTR):
        return _scalar(btf, found, names, label)
    raise LayoutError(label, f"kind {found.kind.name} has no value")


def raw_codec(size: int, name: str = "raw bytes") -> Codec:
    """Converter for data without type information: bytes stay bytes."""

    def encode(buffer: bytearray, offset: int, value: Any) -> None:
        buffer[offset : offset + size] = _exact_bytes(value, size, name)

    return Codec(name, size, (), lambda data, offset: bytes(data[offset : offset + size]), encode)


def u32_codec(name: str) -> Codec:
    """Converter for the machine's own 32-bit numbers, where there is no type information."""
    layout = struct.Struct("<I")

    def encode(buffer: bytearray, offset: int, value: Any) -> None:
        try:
            layout.pack_into(buffer, offset, value)
        except struct.error as error:
            raise LayoutError(name, f"{value!r} does not fit: {error}") from None

    return Codec(name, layout.size, (), lambda data, offset: layout.unpack_from(data, offset)[0], encode)


def _exact_bytes(value: Any, size: int, name: str) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)) or len(value) != size:
        raise LayoutError(name, f"expected {size} bytes, got {value!r}")
    return bytes(value)


def _scalar(btf: Btf, found: BtfType, names: tuple[str, ...], label: str) -> Codec:
    size = btf.size_of(found.id)
    order = next((_BIG_ENDIAN[name] for name in names if name in _BIG_ENDIAN), None)
    letter = _INTEGERS.get(size)
    if letter is None:
        raise LayoutError(label, f"integers of {size} bytes are not supported")
    layout = struct.Struct(order or "<" + (letter.lower() if found.signed else letter))
    convert = bool if found.boolean else int

    def decode(data: memoryview | bytes | bytearray, offset: int) -> Any:
        return convert(layout.unpack_from(data, offset)[0])

    def encode(buffer: bytearray, offset: int, value: Any) -> None:
        try:
            layout.pack_into(buffer, offset, int(value))
        except (struct.error, TypeError, ValueError) as error:
            raise LayoutError(label, f"{value!r} does not fit: {error}") from None

    return Codec(label, size, (), decode, encode)


def _array(btf: Btf, found: BtfType, label: str) -> Codec:
    element_type, _ = btf.resolve(found.ref)
    if element_type.kind is Kind.INT and element_type.size == 1:
        return raw_codec(found.count, label)
    element = codec_for(btf, found.ref)
    step, count = element.size, found.count

    def decode(data: memoryview | bytes | bytearray, offset: int) -> Any:
        return [element._decode(data, offset + i * step) for i in range(count)]

    def encode(buffer: bytearray, offset: int, value: Any) -> None:
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise LayoutError(label, f"expected a list of {count} values, got {value!r}")
        for i, item in enumerate(value):
            element._encode(buffer, offset + i * step, item)

    return Codec(label, step * count, (), decode, encode)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    offset: int
    codec: Codec


def _fields(btf: Btf, found: BtfType, base: int, label: str) -> list[_Field]:
    """Members of a struct or union; those of anonymous inner ones are lifted to this level."""
    result = []
    for member in found.members:
        if member.bits:
            raise LayoutError(f"{label}.{member.name}", "bit fields are not supported in shared layouts")
        inner, _ = btf.resolve(member.type_id)
        if not member.name:
            result += _fields(btf, inner, base + member.offset, label)
        else:
            result.append(_Field(member.name, base + member.offset, codec_for(btf, member.type_id)))
    return result


def _overlapping(fields: list[_Field]) -> frozenset[str]:
    """Names of fields that share bytes with another one: members of unions."""
    return frozenset(
        one.name
        for one in fields
        for other in fields
        if one is not other
        and one.offset < other.offset + other.codec.size
        and other.offset < one.offset + one.codec.size
    )


def _aggregate(btf: Btf, found: BtfType, label: str) -> Codec:
    fields = _fields(btf, found, 0, label)
    by_name = {entry.name: entry for entry in fields}
    shared = _overlapping(fields)

    def decode(data: memoryview | bytes | bytearray, offset: int) -> Any:
        return {entry.name: entry.codec._decode(data, offset + entry.offset) for entry in fields}

    def encode(buffer: bytearray, offset: int, value: Any) -> None:
        if isinstance(value, (bytes, bytearray, memoryview)):
            buffer[offset : offset + found.size] = _exact_bytes(value, found.size, label)
            return
        if not isinstance(value, dict):
            raise LayoutError(label, f"expected a dict of its fields, got {value!r}")
        for name, item in value.items():
            entry = by_name.get(name)
            if entry is None:
                raise LayoutError(label, f"no field {name!r} (it has {', '.join(by_name)})")
            try:
                entry.codec._encode(buffer, offset + entry.offset, item)
            except LayoutError as error:
                raise LayoutError(f"{label}.{name}", error.detail) from None
        for name in shared & value.keys():
            entry = by_name[name]
            if entry.codec._decode(buffer, offset + entry.offset) != value[name]:
                raise LayoutError(f"{label}.{name}", "contradicts another member of its union")

    return Codec(label, found.size, tuple(by_name), decode, encode)
