"""Debian packages, binary and source, fetched without touching the machine's own apt configuration.

The mirror is the one the machine installs from (``lab.rootfs.mirror``); lists and cache live in a
directory of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lab import rootfs
from lab.errors import LabError
from lab.process import Log, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
HINT = "See that `apt-get update` works here, or set PODWIRE_DEBIAN_MIRROR"


class Archive:
    """Debian's archive of the lab's suite, seen through an apt state of its own."""

    def __init__(self, directory: Path, log: Log, *, sources: bool = False) -> None:
        """Fetch the lists of binary packages, or of source packages. Raises LabError."""
        self.directory = directory
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        kind = "deb-src" if sources else "deb"
        (directory / "sources" / "lab.list").write_text(
            f"{kind} [signed-by={KEYRING}] {rootfs.mirror()} {rootfs.SUITE} {rootfs.COMPONENTS}\n"
        )
        self.options = [
            "-o", "Dir::Etc::SourceList=/dev/null",
            "-o", f"Dir::Etc::SourceParts={directory / 'sources'}",
            "-o", f"Dir::State::Lists={directory / 'lists'}",
            "-o", f"Dir::Cache={directory / 'cache'}",
            "-o", "APT::Sandbox::User=root",
            "-o", "Acquire::Retries=3",
            # Without it apt-get update ends with 0 when the mirror cannot be reached.
            "-o", "APT::Update::Error-Mode=any",
            "-o", "Acquire::Languages=none",
        ]  # fmt: skip
        log("fetching Debian's package lists")
        run(["apt-get", "-q", *self.options, "update"], what="fetching Debian's package lists", hint=HINT)

    def source(self, package: str) -> Path:
        """Fetch and unpack a source package, Debian's patches applied; returns its place. Raises LabError."""
        run(
            ["apt-get", "-q", *self.options, "source", "--download-only", package],
            what=f"fetching the source of {package}",
            hint=HINT,
            cwd=self.directory,
        )
        descriptions = sorted(self.directory.glob(f"{package}_*.dsc"))
        if not descriptions:
            raise LabError(f"apt-get source {package} brought no .dsc file", HINT)
        tree = self.directory / "tree"
        # apt has checked the hashes against the signed list; the maintainer's key is not at hand.
        run(
            ["dpkg-source", "--no-check", "-x", descriptions[-1], tree],
            what=f"unpacking the source of {package}",
        )
        return tree

    def unpack(self, packages: Iterable[str], target: Path) -> None:
        """Fetch binary packages, not what they depend on, and unpack them into target. Raises LabError."""
        names = list(packages)
        run(
            ["apt-get", "-q", *self.options, "download", *names],
            what=f"fetching {', '.join(names)}",
            hint=HINT,
            cwd=self.directory,
        )
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            found = sorted(self.directory.glob(f"{name}_*.deb"))
            if not found:
                raise LabError(f"apt-get download brought no {name}", HINT)
            run(["dpkg-deb", "--extract", found[-1], target], what=f"unpacking {name}")
