"""Maglev tables in the kernel: one inner map per list of backends, put in place whole."""

from __future__ import annotations

import array
import errno
import sys
from collections.abc import Sequence

from podwire.bpf import BpfError, Map, MapType

from .errors import DatapathError
from .service_settings import MAGLEV_ENTRY

_ONLY = bytes(4)  # the key of an inner map's only element
_NO_LIST = 0  # lists are numbered from 1


def new_table(size: int) -> Map:
    """An inner map for a table of ``size`` bytes, all 0."""
    return Map.create(MapType.ARRAY, "podwire_maglev_t", key_size=4, value_size=size, max_entries=1)


def fits(tables: Map, size: int) -> bool:
    """Can ``tables`` hold tables of ``size`` bytes? The kernel does not tell, so it is tried."""
    with new_table(size) as trial:
        try:
            tables.set_inner(_NO_LIST, trial)
        except BpfError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        tables.delete(_NO_LIST)
    return True


def put(tables: Map, list_id: int, table: Sequence[int]) -> None:
    """Make ``table`` the table of list ``list_id``, in one step."""
    entries = array.array("H", table)
    if sys.byteorder == "big":
        entries.byteswap()
    with new_table(len(entries) * MAGLEV_ENTRY) as inner:
        inner.set(_ONLY, entries.tobytes())
        try:
            tables.set_inner(list_id, inner)
        except BpfError as error:
            if error.errno != errno.EINVAL:
                raise
            raise DatapathError(
                f"the Maglev table of list {list_id} has {len(entries)} entries, the programs expect another "
                "number",
                "Give the agent and the datapath the same maglev_size.",
            ) from error
