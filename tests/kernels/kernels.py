"""Debian's kernels for test machines: found with apt, unpacked once, cached."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache

META_PACKAGE = "linux-image-cloud-amd64"
MODULES = ("veth", "sch_ingress", "cls_bpf")
"""What the tests use and Debian builds as modules; what these need is added."""


class KernelError(Exception):
    """The kernel cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: ``modules`` in the order in which they have to be loaded."""

    release: str
    image: Path
    modules: list[Path]


def get_kernel(version: str, cache: Cache) -> Kernel:
    """Debian's cloud kernel of ``version`` (``6.1``); downloads it when the cache lacks it."""
    package = find_package(version)
    release = package.removeprefix("linux-image-")

    def build(directory: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="podwire-kernel-") as work:
            _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", package], cwd=Path(work))
            (archive,) = Path(work).glob("*.deb")
            _run(["dpkg-deb", "-x", str(archive), work], cwd=Path(work))
            (directory / "vmlinuz").write_bytes(Path(work, f"boot/vmlinuz-{release}").read_bytes())
            tree = Path(work, "lib/modules", release)
            ordered = in_load_order(MODULES, {path.stem: path for path in tree.rglob("*.ko")})
            for number, path in enumerate(ordered):
                (directory / f"{number:02}-{path.name}").write_bytes(path.read_bytes())

    entry = cache.build("kernels", f"{package}_{candidate(package)}", build)
    return Kernel(release, entry / "vmlinuz", sorted(entry.glob("*.ko")))


def find_package(version: str) -> str:
    """Name of the package that holds the kernel; raises KernelError when apt does not offer that version."""
    output = _run(["apt-cache", "depends", META_PACKAGE])
    found = re.search(r"Depends: (linux-image-(\S+)-cloud-amd64)$", output, re.MULTILINE)
    if not found or not found.group(2).startswith(f"{version}."):
        offered = found.group(2) if found else "nothing"
        raise KernelError(
            f"apt offers {offered} as {META_PACKAGE}, not {version}: this needs Debian 12; run apt-get update"
        )
    return found.group(1)


def candidate(package: str) -> str:
    """Version of the package that apt would install, as a file name."""
    found = re.search(r"Candidate: (\S+)", _run(["apt-cache", "policy", package]))
    if not found or found.group(1) == "(none)":
        raise KernelError(f"apt cannot install {package}: run apt-get update")
    return re.sub(r"[^A-Za-z0-9.+-]", "-", found.group(1))


def in_load_order(wanted: Iterable[str], available: dict[str, Path]) -> list[Path]:
    """The modules and what they depend on, dependencies first. Built-in ones are not in ``available``."""
    ordered: list[Path] = []

    def add(name: str) -> None:
        path = available.get(name) or available.get(name.replace("_", "-"))
        if path is None or path in ordered:
            return
        for needed in dependencies(path.read_bytes()):
            add(needed)
        ordered.append(path)

    for name in wanted:
        add(name)
    return ordered


def dependencies(module: bytes) -> list[str]:
    """What a kernel module says it depends on."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name for name in found.group(1).decode().split(",") if name] if found else []


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout
