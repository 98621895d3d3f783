"""The pins of a datapath: which kernel object lies under which name."""

from __future__ import annotations

import contextlib
from pathlib import Path

from podwire.bpf import BpfError, Program

from .errors import NotInstalled
from .hooks import PROGRAMS, SOCKET_PROGRAMS
from .loader import NEW

APPLY_FIRST = "Run `podwire datapath apply` (the role podwire.ebpf.datapath does) first."


class Pins:
    """Directories below one root in a BPF file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.maps = self.root / "maps"
        self.programs = self.root / "progs"
        self.links = self.root / "links"
        self.folders = (self.links, self.programs, self.maps)

    def program(self, name: str) -> Program:
        """Open a pinned program; raises NotInstalled."""
        try:
            return Program.pinned(self.programs / name)
        except BpfError as error:
            raise NotInstalled(f"program {name} is not loaded on this node ({error})", APPLY_FIRST) from error

    def program_ids(self) -> dict[str, int]:
        """Ids of the pinned programs by name."""
        result = {}
        for name in (*PROGRAMS, *SOCKET_PROGRAMS):
            with contextlib.suppress(NotInstalled), self.program(name) as program:
                result[name] = program.id
        return result

    def map_names(self) -> list[str]:
        """Names of the pinned maps."""
        if not self.maps.is_dir():
            return []
        return sorted(path.name for path in self.maps.iterdir() if not path.name.endswith(NEW))

    def all(self) -> list[Path]:
        """Every pin: links, programs, maps."""
        return [path for folder in self.folders if folder.is_dir() for path in sorted(folder.iterdir())]

    def create_folders(self) -> None:
        """Make the directories; raises OSError."""
        for folder in self.folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what an interrupted change left behind."""
        for path in self.all():
            if path.name.endswith(NEW):
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove every pin and the directories."""
        for path in self.all():
            path.unlink(missing_ok=True)
        for folder in (*self.folders, self.root):
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
