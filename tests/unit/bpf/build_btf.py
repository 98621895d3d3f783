"""Write small BTF blobs for tests, independent of the reader under test."""

from __future__ import annotations

import struct


class BtfWriter:
    """Add types, get their ids, ``finish()`` gives the blob."""

    def __init__(self) -> None:
        self._strings = b"\0"
        self._types: list[bytes] = []

    def _name(self, name: str) -> int:
        if not name:
            return 0
        offset = len(self._strings)
        self._strings += name.encode() + b"\0"
        return offset

    def _add(self, name, kind, word, extra=b"", count=0, flag=False) -> int:
        info = kind << 24 | count | (1 << 31 if flag else 0)
        self._types.append(struct.pack("<III", self._name(name), info, word) + extra)
        return len(self._types)

    def integer(self, name: str, size: int, encoding: int = 0) -> int:
        return self._add(name, 1, size, struct.pack("<I", encoding << 24 | size * 8))

    def array(self, element: int, count: int) -> int:
        return self._add("", 3, 0, struct.pack("<III", element, element, count))

    def typedef(self, name: str, target: int) -> int:
        return self._add(name, 8, target)

    def const(self, target: int) -> int:
        return self._add("", 10, target)

    def aggregate(self, kind: int, name: str, size: int, members, bits: bool = False) -> int:
        extra = b"".join(
            struct.pack("<III", self._name(member), type_id, offset) for member, type_id, offset in members
        )
        return self._add(name, kind, size, extra, len(members), bits)

    def struct(self, name: str, size: int, *members: tuple[str, int, int], bits: bool = False) -> int:
        """Members are (name, type, offset in bits)."""
        return self.aggregate(4, name, size, members, bits)

    def union(self, name: str, size: int, *members: tuple[str, int, int]) -> int:
        return self.aggregate(5, name, size, members)

    def enum(self, name: str, **values: int) -> int:
        extra = b"".join(struct.pack("<Ii", self._name(key), value) for key, value in values.items())
        return self._add(name, 6, 4, extra, len(values))

    def variable(self, name: str, target: int) -> int:
        return self._add(name, 14, target, struct.pack("<I", 1))

    def section(self, name: str, size: int, *entries: tuple[int, int, int]) -> int:
        extra = b"".join(struct.pack("<III", *entry) for entry in entries)
        return self._add(name, 15, size, extra, len(entries))

    def finish(self) -> bytes:
        types = b"".join(self._types)
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return header + types + self._strings
