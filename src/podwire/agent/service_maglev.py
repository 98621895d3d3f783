"""Maglev tables of lists of backends, in the kernel."""

from __future__ import annotations

from collections.abc import Set

from podwire.agent.service_tables import MAGLEV
from podwire.bpf import BpfError
from podwire.datapath import Datapath, DatapathError
from podwire.service.model import BackendList


class KernelMaglev:
    """Which lists have a table is remembered, so that most deletions cost nothing."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._size = 0
        self._known: set[int] | None = None

    def resize(self, size: int) -> None:
        """Make tables of ``size`` entries from now on: what the programs were loaded with."""
        self._size = size

    def numbers(self) -> Set[int]:
        """Raises DatapathError or BpfError."""
        self._known = {_number(key) for key, _ in self._datapath.map(MAGLEV).items()}
        return self._known

    def write(self, name: int, value: BackendList) -> None:
        """Raises BpfError."""
        from podwire.service.maglev import table  # only where it is used: it is memory for nothing elsewhere

        try:
            self._datapath.maglev_set(name, table(value.backends, self._size))
        except DatapathError as error:
            raise BpfError("write", f"the Maglev table of list {name}", 0, str(error)) from error
        if self._known is not None:
            self._known.add(name)

    def delete(self, name: int) -> None:
        if self._known is None or name in self._known:
            self._datapath.maglev_delete(name)
            (self._known or set()).discard(name)


def _number(key: object) -> int:
    return key if isinstance(key, int) else int.from_bytes(bytes(key), "little")  # type: ignore[call-overload]
