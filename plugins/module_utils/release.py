# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Releases of podwire on a node: one directory each below a root, and a link ``current`` to the one in use.

A release is a bundle (made on the controller, see ``bundle_build``) unpacked and completed with a virtual
environment whose packages come from the wheels in the bundle. It is made under its final name, because
virtual environments cannot be moved; a marker written last tells a finished one from what an interrupted run
left behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

MARKER = ".complete"
NAME_PATTERN = re.compile(r"[0-9][0-9A-Za-z.+]*-[0-9a-f]{8,64}")
OUTPUT_LIMIT = 4000


@dataclass(frozen=True)
class Installed:
    """What a node has: finished releases (newest last), unfinished ones, the one in use, links."""

    releases: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    current: str = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Step:
    """One thing to do: ``clear``, ``install``, ``switch``, ``link``, ``unlink``, ``prune`` or ``remove``."""

    verb: str
    subject: str

    def __str__(self) -> str:
        return f"{self.verb} {self.subject}"


def plan_present(name: str, have: Installed, *, keep: int, links: dict[str, str]) -> list[Step]:
    """Return the steps that make ``name`` the release in use and leave ``keep`` releases, it included."""
    steps = [Step("clear", other) for other in have.unfinished]
    if name not in have.releases:
        steps.append(Step("install", name))
    if have.current != name:
        steps.append(Step("switch", name))
    known = dict(have.links)
    steps += [Step("link", path) for path, target in links.items() if known.get(path) != target]
    # The release that was in use until now stays first in line: it is the way back.
    others = [release for release in have.releases if release not in (name, have.current)]
    if have.current and have.current != name and have.current in have.releases:
        others.append(have.current)
    spare = max(keep - 1, 0)
    steps += [Step("prune", release) for release in (others[:-spare] if spare else others)]
    return steps


def plan_absent(have: Installed) -> list[Step]:
    """Return the steps that remove every release and every link to one."""
    steps = [Step("unlink", path) for path, target in have.links if target]
    if have.current:
        steps.append(Step("unlink", "current"))
    return steps + [Step("remove", release) for release in (*have.unfinished, *have.releases)]


def read(root: Path, links: dict[str, str]) -> Installed:
    """Read what is installed below ``root``, and where the commands' links point ("" when there is none)."""
    releases: list[tuple[float, str]] = []
    unfinished: list[str] = []
    if root.is_dir():
        for entry in sorted(root.iterdir()):
            if entry.is_symlink() or not entry.is_dir() or not NAME_PATTERN.fullmatch(entry.name):
                continue
            marker = entry / MARKER
            if marker.exists():
                releases.append((marker.stat().st_mtime, entry.name))
            else:
                unfinished.append(entry.name)
    return Installed(
        releases=tuple(name for _, name in sorted(releases)),
        unfinished=tuple(unfinished),
        current=_target(root / "current"),
        links=tuple((path, _target(Path(path))) for path in links),
    )


def _target(link: Path) -> str:
    return str(link.readlink()) if link.is_symlink() else ""


def apply(steps: list[Step], *, root: Path, bundle: Path | None, python: str, links: dict[str, str]) -> None:
    """Carry the steps out. An installation that fails leaves no directory behind."""
    for step in steps:
        if step.verb in ("clear", "prune", "remove"):
            shutil.rmtree(root / step.subject)
        elif step.verb == "install":
            install(root / step.subject, bundle=bundle, python=python)
        elif step.verb == "switch":
            _link(root / "current", step.subject)
        elif step.verb == "link":
            _link(Path(step.subject), links[step.subject])
        elif step.verb == "unlink":
            path = root / "current" if step.subject == "current" else Path(step.subject)
            path.unlink()


def _link(path: Path, target: str) -> None:
    """Point ``path`` at ``target`` in one atomic step, so that it never dangles."""
    if path.exists() and not path.is_symlink():
        raise PodwireError(f"{path} is in the way: it is not a link of ours", "Move it aside and run again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(path)


def install(directory: Path, *, bundle: Path | None, python: str) -> None:
    """Unpack ``bundle`` to ``directory`` and complete it with a virtual environment of ``python``."""
    if bundle is None or not bundle.is_file():
        raise PodwireError(
            f"the bundle {bundle or '(none given)'} is not on this node",
            "Copy it there first; the role podwire.ebpf.agent does.",
        )
    try:
        directory.mkdir(parents=True, mode=0o755)
        unpack(bundle, directory)
        make_environment(directory, python)
        (directory / MARKER).write_text("")
    except BaseException as error:
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(error, OSError):
            raise PodwireError(
                f"cannot install {directory}: {error.strerror or error}",
                f"Look at the free space and inodes of {directory.parent} (df -h, df -i).",
            ) from error
        raise


def unpack(bundle: Path, directory: Path) -> None:
    """Unpack the archive. Members that would land outside the directory make it invalid."""
    try:
        with tarfile.open(bundle) as archive:
            for member in archive.getmembers():
                inside = os.path.normpath(member.name)
                if inside.startswith(("/", "..")) or not (
                    member.isfile() or member.isdir() or member.issym()
                ):
                    raise PodwireError(
                        f"the bundle {bundle} holds {member.name!r}, which does not belong in a bundle"
                    )
            if hasattr(tarfile, "tar_filter"):
                archive.extractall(directory, filter="tar")
            else:  # Python 3.10 and 3.11 without the backport; the members were checked above
                archive.extractall(directory)  # noqa: S202
    except (tarfile.TarError, EOFError) as error:
        raise PodwireError(
            f"the bundle {bundle} is damaged: {error}", "Delete it and run again; it is copied afresh."
        ) from error


def make_environment(directory: Path, python: str) -> None:
    """Create ``directory``'s virtual environment from the wheels that came with it."""
    wheels = directory / "wheels"
    pip = sorted(wheels.glob("pip-*.whl"))
    if not pip:
        raise PodwireError(f"the bundle holds no wheels/pip-*.whl ({wheels})", "Build the bundle again.")
    run([python, "-I", "-m", "venv", "--without-pip", str(directory)], "create the virtual environment")
    environment = {
        "PYTHONPATH": str(pip[-1]),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
    }
    # Byte code is made when a module is first used: most of the packages' modules never are.
    pip_install = "-m pip install --quiet --no-index --no-cache-dir --no-compile --disable-pip-version-check"
    run(
        [str(directory / "bin" / "python"), *pip_install.split(), "--find-links", str(wheels), "podwire"],
        "install the wheels",
        environment=environment,
    )
    shutil.rmtree(wheels)


def run(command: list[str], purpose: str, *, environment: dict[str, str] | None = None) -> str:
    """Run a command to its end and return its output; raise with the end of it when it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise PodwireError(
            f"could not {purpose}: {' '.join(command)} ended with {done.returncode}: "
            f"{(done.stderr or done.stdout).strip()[-OUTPUT_LIMIT:]}",
            "The bundle carries wheels for Python 3.10 to 3.13; see that the node's Python is one of them.",
        )
    return done.stdout


def after(have: Installed, steps: list[Step], links: dict[str, str]) -> Installed:
    """Return what a node has once ``steps`` are done. Pure: this is what check mode reports."""
    releases, unfinished, current, known = (
        list(have.releases),
        list(have.unfinished),
        have.current,
        dict(have.links),
    )
    for step in steps:
        if step.verb == "clear":
            unfinished.remove(step.subject)
        elif step.verb == "install":
            releases.append(step.subject)
        elif step.verb == "switch":
            current = step.subject
        elif step.verb == "link":
            known[step.subject] = links[step.subject]
        elif step.verb == "unlink":
            current = "" if step.subject == "current" else current
            known.pop(step.subject, None)
        else:
            (releases if step.subject in releases else unfinished).remove(step.subject)
    return Installed(tuple(releases), tuple(unfinished), current, tuple(known.items()))


def describe(state: Installed) -> str:
    """The state as a diff shows it."""
    shown = {
        "current": state.current or None,
        "releases": sorted(state.releases),
        "unfinished": sorted(state.unfinished),
        "links": {path: target for path, target in state.links if target},
    }
    return json.dumps(shown, indent=2, sort_keys=True) + "\n"
