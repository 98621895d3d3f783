"""BPF maps: typed entries (by BTF), batches, per-CPU values."""

from __future__ import annotations

import enum
import errno
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._ffi import ffi, last_errno, lib
from .btf import Btf
from .codec import Codec, codec_for, raw_codec, u32_codec
from .errors import BpfError
from .handle import Handle, kernel_btf, object_info

if TYPE_CHECKING:
    from typing_extensions import Self

_BATCH = 4096
_NAME_LENGTH = 15
_NO_BATCH = {errno.EINVAL, 524, errno.EOPNOTSUPP}


class MapType(enum.IntEnum):
    """Map types podwire meets; the kernel's numbers."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    SOCKHASH = 18
    RINGBUF = 27


_PER_CPU = {MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH}
_ARRAYS = {MapType.ARRAY, MapType.PERCPU_ARRAY}
_OF_MAPS = {MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS}  # the kernel takes no type information for them


class Update(enum.IntFlag):
    """When ``set`` may write: always, only a new key (EEXIST otherwise), only a known one (ENOENT)."""

    ANY = 0
    NOEXIST = 1
    EXIST = 2


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says about a map. Sizes in bytes."""

    id: int
    type: int
    name: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    btf_id: int
    key_type_id: int
    value_type_id: int

    @property
    def type_name(self) -> str:
        return map_type_name(self.type)


def map_type_name(number: int) -> str:
    """``lru_hash`` for 9, ``type 99`` for a number that libbpf does not know."""
    text = lib().libbpf_bpf_map_type_str(number)
    return f"type {number}" if text == ffi.NULL else str(ffi.string(text).decode())


@functools.cache
def possible_cpus() -> int:
    """Number of values a per-CPU entry has."""
    count: int = lib().libbpf_num_possible_cpus()
    if count < 1:
        raise BpfError("count", "the possible CPUs", last_errno(count))
    return count


class Map(Handle):
    """An open map. Keys and values are Python values (see ``codec``); per-CPU values are lists of them.

    Entries may change under iteration: ``items`` then shows each untouched entry at least once.
    """

    def __init__(self, fd: int, label: str, btf: Btf | None = None) -> None:
        super().__init__(fd, label)
        info = object_info(fd, "bpf_map_info", f"map {label}")
        self.info = MapInfo(
            info.id, info.type, ffi.string(info.name).decode(), info.key_size, info.value_size,
            info.max_entries, info.map_flags, info.btf_id, info.btf_key_type_id, info.btf_value_type_id,
        )  # fmt: skip
        self._btf = btf
        self.per_cpu = self.info.type in _PER_CPU

    @classmethod
    def by_id(cls, number: int) -> Self:
        """Open a map by the id that a program's own description gave."""
        fd = lib().bpf_map_get_fd_by_id(number)
        if fd < 0:
            raise BpfError("open", f"map id {number}", last_errno(fd))
        return cls(fd, f"id {number}")

    @classmethod
    def create(
        cls, kind: MapType, name: str, *, key_size: int, value_size: int, max_entries: int, flags: int = 0
    ) -> Self:
        """Make a map without type information (its entries are bytes); sizes in bytes. It ends with its last
        descriptor, pin, program or outer map. Raises BpfError."""
        options = ffi.new("struct bpf_map_create_opts *", {"map_flags": flags})
        options.sz = ffi.sizeof("struct bpf_map_create_opts")
        fd = lib().bpf_map_create(
            int(kind), name[:_NAME_LENGTH].encode(), key_size, value_size, max_entries, options
        )
        if fd < 0:
            raise BpfError("create", f"map {name}", last_errno(fd))
        return cls(fd, name)

    @functools.cached_property
    def btf(self) -> Btf | None:
        """Type information the map was created with; None for maps without."""
        if self._btf is not None:
            return self._btf
        return kernel_btf(self.info.btf_id, f"map {self.label}") if self.info.btf_id else None

    @functools.cached_property
    def key(self) -> Codec:
        """Converter of keys."""
        if self.info.type in _OF_MAPS and self.info.key_size == 4:
            return u32_codec(f"key of {self.label}")
        if self.btf is None or not self.info.key_type_id:
            return raw_codec(self.info.key_size, f"key of {self.label}")
        return codec_for(self.btf, self.info.key_type_id)

    @functools.cached_property
    def value(self) -> Codec:
        """Converter of (one CPU's) values; a map of maps shows ids of maps."""
        if self.info.type in _OF_MAPS:
            return u32_codec(f"value of {self.label}")
        if self.btf is None or not self.info.value_type_id:
            return raw_codec(self.info.value_size, f"value of {self.label}")
        return codec_for(self.btf, self.info.value_type_id)

    # -- one entry ---------------------------------------------------------------------------------

    def get(self, key: Any) -> Any | None:
        """Value of ``key``, None when there is none."""
        buffer = ffi.new("char[]", self._stride)
        result = lib().bpf_map_lookup_elem(self.fd, self.key.encode(key), buffer)
        if result < 0:
            number = last_errno(result)
            if number == errno.ENOENT:
                return None
            raise self._error("look up", key, number)
        return self._decode_value(ffi.buffer(buffer)[:])

    def set(self, key: Any, value: Any, when: Update = Update.ANY) -> None:
        """Write one entry; raises BpfError (E2BIG when the map is full)."""
        result = lib().bpf_map_update_elem(
            self.fd, self.key.encode(key), self._encode_value(value), int(when)
        )
        if result < 0:
            raise self._error("write", key, last_errno(result))

    def set_inner(self, key: Any, inner: Map) -> None:
        """Put ``inner`` under ``key`` of a map of maps, in one step; raises BpfError (EINVAL: ``inner`` is of
        another kind or size than this map was declared to hold)."""
        result = lib().bpf_map_update_elem(
            self.fd, self.key.encode(key), ffi.new("__u32 *", inner.fd), int(Update.ANY)
        )
        if result < 0:
            raise self._error("write", key, last_errno(result))

    def delete(self, key: Any) -> bool:
        """Remove one entry; False when there was none."""
        result = lib().bpf_map_delete_elem(self.fd, self.key.encode(key))
        if result < 0:
            number = last_errno(result)
            if number == errno.ENOENT:
                return False
            raise self._error("delete", key, number)
        return True

    # -- many entries ------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[Any, Any]]:
        """All entries."""
        for key, value in self.raw_items():
            yield self.key.decode(key), self._decode_value(value)

    def keys(self) -> Iterator[Any]:
        """All keys."""
        return (self.key.decode(key) for key in self.raw_keys())

    def __len__(self) -> int:
        """Number of entries, by counting them (arrays are always full)."""
        if self.info.type in _ARRAYS:
            return self.info.max_entries
        return sum(1 for _ in self.raw_items())

    def __bool__(self) -> bool:
        return True

    def set_many(self, entries: Iterable[tuple[Any, Any]]) -> int:
        """Write entries in batches where the kernel can; returns how many. Not atomic as a whole."""
        return self.raw_set_many((self.key.encode(key), self._encode_value(value)) for key, value in entries)

    def delete_many(self, keys: Iterable[Any]) -> int:
        """Remove entries; returns how many existed."""
        return sum(self.delete(key) for key in keys)

    def clear(self) -> int:
        """Remove every entry; returns how many there were."""
        return sum(self._raw_delete(key) for key in list(self.raw_keys()))

    # -- raw bytes (copying between maps of the same layout, tests) ---------------------------------

    def raw_keys(self) -> Iterator[bytes]:
        """Keys as bytes, by walking the map."""
        current: bytes | None = None
        following = ffi.new("char[]", self.info.key_size)
        for _ in range(2 * self.info.max_entries + 1):  # a walk may restart when its key is deleted under it
            result = lib().bpf_map_get_next_key(self.fd, ffi.NULL if current is None else current, following)
            if result < 0:
                number = last_errno(result)
                if number == errno.ENOENT:
                    return
                raise BpfError("walk", f"map {self.label}", number)
            current = bytes(ffi.buffer(following))
            yield current

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        """Entries as bytes, in batches where the kernel can."""
        batches = self._batches()
        try:
            first = next(batches, None)
        except BpfError as error:
            if error.errno not in _NO_BATCH:
                raise
            yield from self._walk()
            return
        if first is not None:
            yield from first
            for batch in batches:
                yield from batch

    def raw_set_many(self, entries: Iterable[tuple[bytes, bytes]]) -> int:
        """Write entries given as bytes."""
        pending = list(entries)
        for start in range(0, len(pending), _BATCH):
            self._set_batch(pending[start : start + _BATCH])
        return len(pending)

    def _set_batch(self, batch: list[tuple[bytes, bytes]]) -> None:
        count = ffi.new("__u32 *", len(batch))
        keys, values = b"".join(key for key, _ in batch), b"".join(value for _, value in batch)
        result = lib().bpf_map_update_batch(self.fd, keys, values, count, _batch_options())
        if result >= 0:
            return
        number = last_errno(result)
        if number not in _NO_BATCH:
            raise BpfError("write", f"map {self.label}", number)
        for key, value in batch:
            result = lib().bpf_map_update_elem(self.fd, key, value, 0)
            if result < 0:
                raise BpfError("write", f"map {self.label}", last_errno(result))

    def _raw_delete(self, key: bytes) -> bool:
        return bool(lib().bpf_map_delete_elem(self.fd, key) >= 0)

    def _walk(self) -> Iterator[tuple[bytes, bytes]]:
        buffer = ffi.new("char[]", self._stride)
        for key in self.raw_keys():
            if lib().bpf_map_lookup_elem(self.fd, key, buffer) >= 0:  # else deleted meanwhile
                yield key, bytes(ffi.buffer(buffer))

    def _batches(self) -> Iterator[list[tuple[bytes, bytes]]]:
        key_size, stride, size = self.info.key_size, self._stride, min(_BATCH, self.info.max_entries)
        cursor = ffi.new("char[]", max(key_size, 8))
        previous = ffi.NULL
        while True:
            keys, values = ffi.new("char[]", size * key_size), ffi.new("char[]", size * stride)
            count = ffi.new("__u32 *", size)
            result = lib().bpf_map_lookup_batch(
                self.fd, previous, cursor, keys, values, count, _batch_options()
            )
            number = last_errno(result) if result < 0 else 0
            if number == errno.ENOSPC and size < self.info.max_entries:
                size = min(size * 2, self.info.max_entries)  # one bucket held more than the batch
                continue
            if number not in (0, errno.ENOENT):
                raise BpfError("read", f"map {self.label}", number)
            key_bytes, value_bytes = ffi.buffer(keys)[:], ffi.buffer(values)[:]
            yield [
                (key_bytes[i * key_size : (i + 1) * key_size], value_bytes[i * stride : (i + 1) * stride])
                for i in range(count[0])
            ]
            if number == errno.ENOENT:
                return
            previous = cursor

    # -- conversion --------------------------------------------------------------------------------

    @functools.cached_property
    def _stride(self) -> int:
        """Bytes of one value as the kernel hands it over: per-CPU values are padded to 8 and repeated."""
        if self.per_cpu:
            return (self.info.value_size + 7) // 8 * 8 * possible_cpus()
        return self.info.value_size

    def _decode_value(self, data: bytes) -> Any:
        if not self.per_cpu:
            return self.value.decode(data)
        step = (self.info.value_size + 7) // 8 * 8
        return [self.value.decode(data[i * step : (i + 1) * step]) for i in range(possible_cpus())]

    def _encode_value(self, value: Any) -> bytes:
        if not self.per_cpu:
            return self.value.encode(value)
        values = value if isinstance(value, list) else [value] * possible_cpus()
        step = (self.info.value_size + 7) // 8 * 8
        return b"".join(self.value.encode(item).ljust(step, b"\0") for item in values)

    def _error(self, action: str, key: Any, number: int) -> BpfError:
        detail = f"all {self.info.max_entries} entries are in use" if number == errno.E2BIG else ""
        return BpfError(action, f"entry {key!r} of map {self.label}", number, detail)


def _batch_options() -> Any:
    return ffi.new("struct bpf_map_batch_opts *", {"sz": ffi.sizeof("struct bpf_map_batch_opts")})
