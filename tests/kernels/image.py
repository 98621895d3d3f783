"""The test machine's file system: an initramfs with Python, the tests, what they import and nothing else."""

from __future__ import annotations

import importlib.metadata
import re
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = (
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "scapy",
    "cffi",
    "pyroute2",
    "typing_extensions",
)
PROGRAMS = ("ip", "tc")
APPLETS = ("sh", "mount", "umount", "insmod", "reboot", "uname", "cat", "mkdir", "ln", "ls", "dmesg")
_SKIPPED_STDLIB = {"test", "idlelib", "tkinter", "lib2to3", "turtledemo", "ensurepip", "dist-packages"}
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


class ImageError(Exception):
    """Something the image needs is missing on this machine."""


class Cpio:
    """Writer of a cpio archive (format newc), which the kernel unpacks as its first root."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._seen: set[str] = set()
        self._number = 0

    def directory(self, name: str) -> None:
        self._parents(name)
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def link(self, name: str, target: str) -> None:
        self._parents(name)
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._parents(name)
        self._add(name, stat.S_IFREG | mode, data)

    def device(self, name: str, major: int, minor: int) -> None:
        self._parents(name)
        self._add(name, stat.S_IFCHR | 0o600, b"", (major, minor))

    def path(self, name: str, source: Path) -> None:
        """A file of this machine under another name."""
        if name not in self._seen:
            self.file(name, source.read_bytes(), 0o755 if source.stat().st_mode & 0o100 else 0o644)

    def finish(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _parents(self, name: str) -> None:
        for parent in reversed(list(Path(name).parents)[:-1]):
            if str(parent) not in self._seen:
                self._add(str(parent), stat.S_IFDIR | 0o755, b"")

    def _add(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._seen.add(name)
        self._number += 1
        encoded = name.encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + encoded), _padded(data)]


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def build_image(modules: list[Path], objects: dict[str, Path], init: str) -> bytes:
    """The archive. ``objects`` maps directories in the machine to directories here."""
    image = Cpio()
    for name, target in _LINKS.items():
        image.directory(target)
        image.link(name, target)
    for name in ("dev", "proc", "sys", "tmp", "run", "var/lib", "root"):
        image.directory(name)
    image.device("dev/console", 5, 1)
    image.file("init", init.encode(), 0o755)
    _add_busybox(image)
    programs = [_program(name) for name in PROGRAMS]
    python = Path(sys.executable).resolve()
    for path in (*programs, python):
        image.path(f"usr/bin/{path.name}", path)
    image.link("usr/bin/python3", python.name)
    libraries = [Path("/usr/lib/x86_64-linux-gnu/libbpf.so.1")]
    for name, source in _python_files():
        image.path(name, source)
        if source.suffix == ".so" or ".so." in source.name:
            libraries.append(source)
    for path in _shared_libraries([*programs, python, *libraries]):
        image.path(_in_usr(path), path)
    image.path("usr/lib/x86_64-linux-gnu/libbpf.so.1", libraries[0])
    for number, module in enumerate(modules):
        image.path(f"modules/{number:02}.ko", module)
    for name, source in _repository_files():
        image.path(f"repo/{name}", source)
    image.link("repo/collections/ansible_collections/podwire/ebpf", "../../..")
    for target, directory in objects.items():
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                image.path(f"{target}/{path.relative_to(directory)}", path)
    return image.finish()


def _add_busybox(image: Cpio) -> None:
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        raise ImageError("busybox is not installed: run make bootstrap, or install busybox-static")
    image.path("usr/bin/busybox", busybox)
    for name in APPLETS:
        image.link(f"usr/bin/{name}", "busybox")


def _program(name: str) -> Path:
    for directory in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        path = Path(directory, name)
        if path.exists():
            return path
    raise ImageError(f"{name} is not installed: run make bootstrap, or install iproute2")


def _python_files() -> Iterator[tuple[str, Path]]:
    """The standard library, and the distributions with all they require."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library)
        if path.is_file() and inside.parts[0] not in _SKIPPED_STDLIB | {"site-packages"}:
            yield f"usr/lib/{library.name}/{inside}", path
    for name in sorted(closure(DISTRIBUTIONS)):
        for entry in importlib.metadata.files(name) or []:
            path = Path(str(entry.locate()))
            if path.is_file() and ".." not in entry.parts:
                yield f"site/{entry}", path


def closure(names: Iterable[str]) -> set[str]:
    """Distributions and, recursively, what they require here (without extras)."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            if name in {re.sub(r"[-_.]+", "-", wanted).lower() for wanted in DISTRIBUTIONS}:
                raise ImageError(f"{name} is not installed in {sys.prefix}: run make bootstrap") from None
            continue  # required on other Pythons or systems only
        found.add(name)
        pending += [re.split(r"[^A-Za-z0-9._-]", text)[0] for text in requirements if "extra ==" not in text]
    return found


def _shared_libraries(files: list[Path]) -> set[Path]:
    """Libraries that the files need, as this machine's dynamic linker finds them."""
    found: set[Path] = set()
    for start in range(0, len(files), 50):
        command = ["ldd", *map(str, files[start : start + 50])]
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found |= {Path(path) for path in re.findall(r"(/\S+\.so\S*) \(0x", output)}
    return {path for path in found if "site-packages" not in path.parts}


def _in_usr(path: Path) -> str:
    name = str(path).lstrip("/")
    return name if name.startswith("usr/") else f"usr/{name}"


def _repository_files() -> Iterator[tuple[str, Path]]:
    yield "pyproject.toml", ROOT / "pyproject.toml"
    for path in sorted((ROOT / "tests").glob("*.py")):
        yield str(path.relative_to(ROOT)), path
    for top in (
        "src/podwire",
        "plugins/module_utils",
        "tests/bpf",
        "tests/integration/loader",
        "tests/integration/datapath",
    ):
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix in {".py", ".typed"}:
                yield str(path.relative_to(ROOT)), path
