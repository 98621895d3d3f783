# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Build the node bundle: one archive from which a node installs podwire without network and compiler.

    wheels/          podwire, its pinned dependencies for every supported CPython, and pip itself
    lib/             libbpf, and libelf which it needs
    bin/podwire-cni  the CNI plugin, statically linked
    manifest.json    version, hash, checksums

The node unpacks it to a directory and completes that with a virtual environment (see ``release``). Wheels and
archive are cached separately: a change in podwire's own source downloads nothing.
"""

from __future__ import annotations

import concurrent.futures
import gzip
import hashlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache, fingerprint
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

KIND = "bundle"
WHEELS_KIND = "wheels"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINE = "x86_64"
# The oldest C library of the supported distributions: Ubuntu 22.04. Wheels and libraries may ask for no more.
GLIBC = (2, 35)
LIBRARIES = ("libbpf.so.1", "libelf.so.1")  # libz is everywhere: dpkg and Python need it
CNI_FLAGS = ("-static", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-s")
REQUIREMENTS = "requirements/node.txt"
_PLATFORMS = ("manylinux1", "manylinux2010", "manylinux2014", "manylinux_2_5", "manylinux_2_12")
_OUTPUT_LIMIT = 4000
_PIN = re.compile(
    r"""(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(\s*;\s*python_version\s*<\s*"(?P<below>[0-9.]+)")?"""
)

Log = Callable[[str], Any]


class Pin(NamedTuple):
    """One line of the requirements: ``below`` is the Python version from which it is not needed any more."""

    name: str
    version: str
    below: str

    def wanted(self, python: str) -> bool:
        """Is it needed on this Python (``3.11``)?"""
        return not self.below or version_key(python) < version_key(self.below)


def version_key(version: str) -> tuple[int, ...]:
    """``(3, 11)`` of ``3.11``."""
    return tuple(int(part) for part in version.split("."))


def read_pins(text: str) -> list[Pin]:
    """The pins of a requirements file; raises PodwireError for a line that is not an exact pin."""
    pins = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.split("#", 1)[0].strip()
        if not content:
            continue
        found = _PIN.fullmatch(content)
        if not found:
            raise PodwireError(
                f"{REQUIREMENTS}:{number}: {content!r} is not an exact pin",
                'Write NAME==VERSION, if need be followed by ; python_version < "3.11".',
            )
        pins.append(Pin(found["name"], found["version"], found["below"] or ""))
    return pins


def version_of(source: Path) -> str:
    """podwire's version, from pyproject.toml (tomllib is missing in Python 3.10)."""
    found = re.search(r'^version = "([^"]+)"', (source / "pyproject.toml").read_text(), re.MULTILINE)
    if not found:
        raise PodwireError(f"{source / 'pyproject.toml'} states no version")
    return found.group(1)


def build(source: Path, cache: Cache, log: Log) -> Path:
    """Return the archive ``podwire-VERSION-HASH.tar.gz`` made from the checkout ``source``.

    Raises PodwireError: a package index that cannot be reached, a missing compiler or library, a source that
    does not compile.
    """
    source = Path(source).resolve()
    version = version_of(source)
    wheels = build_wheels(source, cache, log)
    libraries = [find_library(name) for name in LIBRARIES]
    key = fingerprint(
        source / "src",
        source / "pyproject.toml",
        source / "cni",
        wheels.name,
        *libraries,
        inspect.getsource(sys.modules[__name__]),
        version,
    )
    name = f"podwire-{version}-{key[:12]}"

    def pack(directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="podwire-bundle-") as work:
            tree = Path(work, "tree")
            (tree / "wheels").mkdir(parents=True)
            log("building podwire's wheel, the CNI plugin and the node bundle")
            for wheel in sorted(wheels.glob("*.whl")):
                shutil.copy2(wheel, tree / "wheels")
            build_own_wheel(source, tree / "wheels", Path(work))
            build_cni(source / "cni", tree / "bin" / "podwire-cni")
            (tree / "lib").mkdir()
            for library in libraries:
                check_glibc(library)
                shutil.copy(library.resolve(), tree / "lib" / library.name)
            write_manifest(tree, version, key)
            write_archive(tree, directory / f"{name}.tar.gz")

    return cache.build(KIND, f"{version}-{key[:12]}", pack, log=log, need=200 << 20) / f"{name}.tar.gz"


# -- wheels ----------------------------------------------------------------------------------------


def build_wheels(source: Path, cache: Cache, log: Log) -> Path:
    """Directory with the wheels of every pin for every supported Python."""
    text = (source / REQUIREMENTS).read_text()
    pins = read_pins(text)
    key = fingerprint(json.dumps([pins, PYTHONS, MACHINE, GLIBC]))

    def download(directory: Path) -> None:
        require_pip()
        log(f"downloading {len(pins)} packages for CPython {', '.join(PYTHONS)}")
        with concurrent.futures.ThreadPoolExecutor(len(PYTHONS)) as pool:
            list(pool.map(lambda python: _download(python, pins, directory), PYTHONS))

    return cache.build(WHEELS_KIND, key, download, log=log, need=200 << 20)


def platforms() -> list[str]:
    """Platform tags of wheels that run on the oldest supported distribution."""
    newer = [f"manylinux_{GLIBC[0]}_{minor}" for minor in range(17, GLIBC[1] + 1)]
    return [f"{name}_{MACHINE}" for name in (*_PLATFORMS, *newer)]


def _download(python: str, pins: list[Pin], directory: Path) -> None:
    short = python.replace(".", "")
    with tempfile.TemporaryDirectory(prefix="podwire-wheels-") as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", work, "--python-version", python]
        command += ["--implementation", "cp", "--abi", f"cp{short}", "--abi", "abi3", "--abi", "none"]
        for platform in platforms():
            command += ["--platform", platform]
        command += [f"{pin.name}=={pin.version}" for pin in pins if pin.wanted(python)]
        done = _run(command)
        if done.returncode:
            raise PodwireError(
                f"cannot download the packages for CPython {python}: {_tail(done)}",
                f"See that pip's index (pip config list) is reachable and has the pins of {REQUIREMENTS}.",
            )
        for wheel in Path(work).glob("*.whl"):
            # Several downloads bring the same pure wheel: each appears whole, the last one stays.
            partial = directory / f".{short}-{wheel.name}"
            shutil.copy2(wheel, partial)
            partial.replace(directory / wheel.name)


def require_pip() -> None:
    """Raise PodwireError unless the running interpreter can build and download wheels."""
    missing = [name for name in ("pip", "setuptools", "wheel") if importlib.util.find_spec(name) is None]
    if missing:
        raise PodwireError(
            f"{sys.executable} lacks {', '.join(missing)}, which building the node bundle needs",
            "Run make bootstrap and use its .venv (ansible_python_interpreter: .venv/bin/python).",
        )


def build_own_wheel(source: Path, target: Path, work: Path) -> None:
    """podwire's own wheel, from a copy, because setuptools leaves files beside what it builds."""
    require_pip()
    copied = work / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")
    shutil.copytree(source / "src", copied / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (source / name).exists():
            shutil.copy2(source / name, copied / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = _run([*command, "--disable-pip-version-check", "--wheel-dir", str(target), str(copied)])
    if done.returncode:
        raise PodwireError(
            f"cannot build podwire's wheel: {_tail(done)}", "The lines above say what is wrong."
        )


# -- native parts ----------------------------------------------------------------------------------


def build_cni(source: Path, target: Path) -> None:
    """The CNI plugin as one static binary: no library path of the container runtime can hurt it."""
    files = sorted(str(path) for path in source.glob("*.c"))
    if not files:
        raise PodwireError(f"there is no C file in {source}", "Use a complete checkout.")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = _run(["gcc", *CNI_FLAGS, "-o", str(target), *files])
    except FileNotFoundError:
        raise PodwireError(
            "gcc is not installed", "Run make bootstrap, or install Debian's gcc and libc6-dev."
        ) from None
    if done.returncode:
        raise PodwireError(f"the CNI plugin does not compile: {_tail(done)}", "Fix the first message.")


def find_library(name: str) -> Path:
    """Path of a shared library of this machine, as its dynamic linker finds it."""
    for line in _run(["/sbin/ldconfig", "-p"]).stdout.splitlines():
        left, arrow, path = line.strip().partition(" => ")
        if arrow and left.split()[0] == name and "x86-64" in left:
            return Path(path)
    raise PodwireError(f"{name} is not installed", "Run make bootstrap, or install libbpf1 and libelf1.")


def check_glibc(library: Path) -> None:
    """Raise PodwireError when a library asks for a newer C library than the oldest supported node has."""
    needed = glibc_needed(library.read_bytes())
    if needed > GLIBC:
        raise PodwireError(
            f"{library} needs glibc {needed[0]}.{needed[1]}, nodes may have {GLIBC[0]}.{GLIBC[1]}",
            "Build the bundle on Debian 12.",
        )


def glibc_needed(data: bytes) -> tuple[int, int]:
    """The newest symbol version of glibc that a binary names; (0, 0) when it names none."""
    found = [(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data)]
    return max(found, default=(0, 0))


# -- archive ---------------------------------------------------------------------------------------


def write_manifest(tree: Path, version: str, key: str) -> None:
    """Write manifest.json: what the bundle is and the checksum of every file in it."""
    files = {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(tree)
    }
    manifest = {"name": "podwire", "version": version, "hash": key[:12], "pythons": PYTHONS, "files": files}
    (tree / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def write_archive(tree: Path, target: Path) -> None:
    """Pack the tree; the same tree gives the same bytes. Level 1, because wheels are compressed already."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = "root"
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(tree.iterdir()):
            archive.add(path, path.name, filter=anonymous)


def _files(tree: Path) -> Iterator[Path]:
    return (path for path in sorted(tree.rglob("*")) if path.is_file())


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
    )


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr or done.stdout).strip()[-_OUTPUT_LIMIT:]
