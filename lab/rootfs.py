"""Root filesystems made of Debian packages, as tar files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from lab.errors import LabError
from lab.process import Log, run, stream

SUITE = "bookworm"
COMPONENTS = "main non-free"
# Documentation and translations are half of a small image.
SLIM = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)


def read_packages(path: Path) -> list[str]:
    """Package names of a list with one name a line and # comments."""
    return [word for line in path.read_text().splitlines() for word in line.split("#")[0].split()]


def mirror() -> str:
    """The Debian mirror this machine itself installs from; PODWIRE_DEBIAN_MIRROR overrides it."""
    chosen = os.environ.get("PODWIRE_DEBIAN_MIRROR")
    if chosen:
        return chosen
    listed = run(
        ["apt-get", "indextargets", "--format", "$(SITE)|$(ORIGIN)|$(LABEL)|$(COMPONENT)"], check=False
    ).stdout
    for line in listed.splitlines():
        site, _, rest = line.partition("|")
        if rest == "Debian|Debian|main":
            return site
    raise LabError(
        "apt knows no Debian mirror to make root filesystems from",
        "run `apt-get update` on a machine that installs from a Debian mirror, "
        "or set PODWIRE_DEBIAN_MIRROR to one",
    )


def build(target: Path, packages: Iterable[str], log: Log, *, hooks: Iterable[str] = ()) -> None:
    """Write an installed minimal system with the packages to the tar file ``target``.

    ``hooks`` are shell commands that run at the end with the root directory as $1.
    """
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"]
    command += [f"--dpkgopt={option}" for option in SLIM]
    command += [f"--customize-hook={hook}" for hook in hooks]
    _mmdebstrap(command, target, packages, log)


def extract(directory: Path, packages: Iterable[str], log: Log) -> None:
    """Unpack the packages and what they depend on into ``directory``, without installing them.

    Nothing is configured and documentation is left out: the base of a small container image.
    """
    _mmdebstrap(
        ["mmdebstrap", "--mode=root", "--variant=extract", "--format=directory"], directory, packages, log
    )
    for unwanted in ("doc", "man", "info", "locale", "lintian", "bash-completion", "perl", "perl5"):
        shutil.rmtree(directory / "usr/share" / unwanted, ignore_errors=True)
    for unwanted in ("perl", "perl-base", "gconv"):
        for place in (directory / "usr/lib").glob(f"*/{unwanted}"):
            shutil.rmtree(place)


def _mmdebstrap(command: list[str], target: Path, packages: Iterable[str], log: Log) -> None:
    command += ["--aptopt=APT::Install-Recommends false", "--aptopt=Acquire::Retries 3"]
    command += [f"--include={','.join(packages)}", SUITE, os.fspath(target)]
    command += [f"deb {mirror()} {SUITE} {COMPONENTS}"]
    stream(
        command,
        log,
        # What it leaves when it is killed lies beside the result, and goes with it.
        env={**os.environ, "TMPDIR": os.fspath(target.parent)},
        what=f"making the root filesystem {target.name}",
        hint="If packages could not be fetched, see that `apt-get update` works, "
        "or set PODWIRE_DEBIAN_MIRROR",
    )
