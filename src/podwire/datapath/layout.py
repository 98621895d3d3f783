"""Do pinned maps fit what new programs expect, and what can be taken over when they do not?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from podwire.bpf import BpfError, Map, MapDeclaration, MapInfo, MapType
from podwire.bpf.codec import Codec

_COPIED = {MapType.HASH, MapType.ARRAY, MapType.LRU_HASH, MapType.LPM_TRIE}
_SIZE_IS_BYTES = {MapType.RINGBUF}


def mismatch(wanted: MapDeclaration, entries: int, pinned: Map) -> str:
    """Why programs that want ``wanted`` with ``entries`` cannot use a pinned map; empty when they can."""
    return _mismatch(wanted, entries, pinned.info, pinned.key.fields, pinned.value.fields)


def _mismatch(
    wanted: MapDeclaration,
    entries: int,
    have: MapInfo,
    key_fields: tuple[str, ...],
    value_fields: tuple[str, ...],
) -> str:
    if have.type != wanted.type:
        return f"type changes from {have.type_name} to {wanted.type_name}"
    if (have.key_size, have.value_size) != (wanted.key_size, wanted.value_size):
        return (
            f"layout changes from {have.key_size}+{have.value_size} to "
            f"{wanted.key_size}+{wanted.value_size} bytes (key+value)"
        )
    if (key_fields, value_fields) != (wanted.key_fields, wanted.value_fields):
        changed = set(key_fields + value_fields) ^ set(wanted.key_fields + wanted.value_fields)
        return f"layout changes: {', '.join(sorted(changed)) or 'order of fields'}"
    if have.max_entries != entries:
        unit = "bytes" if wanted.type in _SIZE_IS_BYTES else "entries"
        return f"size changes from {have.max_entries} to {entries} {unit}"
    if have.flags != wanted.flags:
        return f"flags change from {have.flags:#x} to {wanted.flags:#x}"
    return ""


def fitting(value: Any, codec: Codec) -> Any:
    """``value`` without the fields that the new layout no longer has; scalars as they are."""
    if not isinstance(value, Mapping):
        return value
    return {name: item for name, item in value.items() if name in codec.fields}


def copy(source: Map, target: Map) -> tuple[int, str]:
    """Take over the entries of a map whose layout or size changed, field by field.

    Returns how many were taken over, and why not all (empty when all were).
    """
    if source.info.type == target.info.type == MapType.HASH_OF_MAPS:
        return _copy_inner(source, target)
    if source.info.type != target.info.type or source.info.type not in _COPIED:
        return 0, "its content is not carried over (it is counted or learned anew)"
    if source.key.fields != target.key.fields:
        return 0, "its key changed"
    copied = 0
    for key, value in source.items():
        if source.info.type == MapType.ARRAY and key >= target.info.max_entries:
            continue
        try:
            target.set(key, fitting(value, target.value))
        except BpfError as error:
            return copied, str(error)
        copied += 1
    return copied, ""


def _copy_inner(source: Map, target: Map) -> tuple[int, str]:
    copied = 0
    for key, number in source.items():
        try:
            with Map.by_id(number) as inner:
                target.set_inner(key, inner)
        except BpfError as error:
            return copied, str(error)
        copied += 1
    return copied, ""
