# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Bring the snap to the wanted channel or file: a pure plan, and the function that carries it out through
snapd.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import SNAP
from ansible_collections.podwire.ebpf.plugins.module_utils.snap_file import SnapFile, parse_snap_yaml
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd import Snapd
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_changes import task_durations
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import (
    AlreadyDoneError,
    ConfinementRefusedError,
)

BLOBS = Path("/var/lib/snapd/snaps")
HOLD_SINCE = (2, 58)
_RISKS = ("stable", "candidate", "beta", "edge")


@dataclass(frozen=True)
class WantedFile:
    """A local snap file. ``sha256`` lets an installed file count as installed when the copy is gone again."""

    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What the module's arguments ask for."""

    present: bool
    channel: str | None = None
    file: WantedFile | None = None
    prerequisites: tuple[WantedFile, ...] = ()
    classic: bool = True
    dangerous: bool = True
    hold: bool = True
    purge: bool = False


@dataclass(frozen=True)
class Installed:
    """The installed snap as far as the plan needs it."""

    revision: str
    version: str
    tracking: str
    confinement: str
    enabled: bool
    held: bool
    #: Whether its content is the wanted file's; meaningless when a channel is wanted.
    same_content: bool = False

    @property
    def local(self) -> bool:
        """Installed from a file without assertions: snapd numbers such revisions x1, x2, ..."""
        return self.revision.startswith("x")


@dataclass(frozen=True)
class Step:
    """One call to snapd."""

    action: str
    snap: str
    channel: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        target = self.channel or self.file
        return f"{self.action} {self.snap}" + (f" ({target})" if target else "")


def normal_channel(channel: str) -> str:
    """A channel in full, as snapd records it: ``1.28`` is ``1.28/stable``, ``edge`` is ``latest/edge``."""
    parts = channel.strip("/").split("/")
    if (
        not all(parts)
        or len(parts) > 3
        or (len(parts) > 1 and parts[1] not in _RISKS and parts[0] not in _RISKS)
    ):
        raise PodwireError(
            f"{channel!r} is no channel",
            "Write track/risk, for instance 1.28/stable (risks: " + ", ".join(_RISKS) + ").",
        )
    if parts[0] in _RISKS:
        parts.insert(0, "latest")
    if len(parts) == 1:
        parts.append("stable")
    return "/".join(parts)


def snapd_release(version: str) -> tuple[int, int]:
    """(2, 57) from ``2.57.6-1+deb12u1``."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match.group(1)), int(match.group(2))) if match else (0, 0)


def hold_refusal(wanted: Wanted, installed_from_file: bool, snapd_version: str) -> str:
    """Why automatic refreshes cannot be, or need not be, held; empty when they can."""
    if not wanted.hold:
        return "not asked for"
    if installed_from_file:
        return "installed from an unsigned local file, which snapd never refreshes"
    if snapd_release(snapd_version) < HOLD_SINCE:
        return (
            f"snapd {snapd_version} cannot hold a snap's refreshes (2.58 and newer can); "
            "set its option refresh.hold by hand"
        )
    return ""


def plan(
    wanted: Wanted, have: Installed | None, prerequisites: Iterable[Step], snapd_version: str
) -> list[Step]:
    """The steps that turn ``have`` into ``wanted``; empty when there is nothing to do."""
    if not wanted.present:
        if have is None:
            return []
        # snapd refuses to remove some disabled snaps cleanly: their hooks need the snap mounted.
        return [*([] if have.enabled else [Step("enable", SNAP)]), Step("remove", SNAP)]
    steps = list(prerequisites)
    if have is not None and not have.enabled:
        # A disabled snap can be neither refreshed nor used.
        steps.append(Step("enable", SNAP))
    if wanted.file is not None:
        if have is None or not have.same_content:
            steps.append(Step("sideload", SNAP, file=wanted.file.path))
    elif wanted.channel is not None:
        channel = normal_channel(wanted.channel)
        if have is None:
            steps.append(Step("install", SNAP, channel=channel))
        elif not have.tracking or normal_channel(have.tracking) != channel:
            steps.append(Step("refresh", SNAP, channel=channel))
    local_after = wanted.file is not None and wanted.dangerous
    held = have is not None and have.held
    if not held and not hold_refusal(wanted, local_after, snapd_version):
        steps.append(Step("hold", SNAP))
    return steps


def snap_file(path: Path) -> SnapFile:
    """What a snap file on this node says of itself (``unsquashfs`` comes with snapd)."""
    if not path.is_file():
        raise PodwireError(f"The snap file {path} does not exist on this node", "Copy it there first.")
    try:
        done = subprocess.run(
            ["unsquashfs", "-n", "-cat", str(path), "meta/snap.yaml"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise PodwireError(
            "unsquashfs is not installed", "Install squashfs-tools (apt-get install squashfs-tools)."
        ) from error
    if done.returncode:
        raise PodwireError(
            f"{path} is no snap file: {(done.stderr.strip().splitlines() or ['unreadable'])[-1]}",
            "It may be truncated: copy it again.",
        )
    return parse_snap_yaml(path, done.stdout)


def guess_name(path: str) -> str:
    """The snap's name by its file name: ``microk8s_1.28_amd64.snap`` holds microk8s."""
    return re.split(r"[_.]", Path(path).name)[0]


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def blob_of(record: Mapping[str, Any]) -> Path:
    """The squashfs file that snapd keeps for an installed revision: byte for byte what was uploaded."""
    mounted_from = record.get("mounted-from")
    return Path(mounted_from) if mounted_from else BLOBS / f"{record['name']}_{record['revision']}.snap"


def same_content(record: Mapping[str, Any], wanted: WantedFile) -> bool:
    """Whether the installed revision is this very file."""
    blob, file = blob_of(record), Path(wanted.path)
    if not blob.is_file():
        return False
    if file.is_file() and file.stat().st_size != blob.stat().st_size:
        return False
    expected = wanted.sha256 or (sha256_of(file) if file.is_file() else None)
    return expected is not None and sha256_of(blob) == expected.lower()


def is_held(record: Mapping[str, Any], now: float | None = None) -> bool:
    """Whether refreshes are held for good: snapd writes forever as a time centuries ahead."""
    match = re.match(r"(\d{4})-", str(record.get("hold") or ""))
    year = time.gmtime(now).tm_year
    return bool(match) and int(match.group(1)) > year + 10  # type: ignore[union-attr]


def installed(record: Mapping[str, Any] | None, wanted: Wanted) -> Installed | None:
    """The plan's view of a snap record."""
    if record is None:
        return None
    return Installed(
        revision=str(record.get("revision", "")),
        version=str(record.get("version", "")),
        tracking=str(record.get("tracking-channel") or ""),
        confinement=str(record.get("confinement", "")),
        enabled=record.get("status") == "active",
        held=is_held(record),
        same_content=wanted.file is not None and same_content(record, wanted.file),
    )


def prerequisite_steps(snapd: Snapd, files: Iterable[WantedFile]) -> list[Step]:
    """Which of the snaps that MicroK8s stands on are still to be installed from their files.

    A snap that came from the store is left alone: it is newer than, or as good as, the file.
    """
    steps = []
    for wanted in files:
        path = Path(wanted.path)
        name = snap_file(path).name if path.is_file() else guess_name(wanted.path)
        record = snapd.snap(name)
        if record is not None and (
            not str(record["revision"]).startswith("x") or same_content(record, wanted)
        ):
            continue
        steps.append(Step("sideload", name, file=wanted.path))
    return steps


def check_confinement(snapd: Snapd, wanted: Wanted) -> None:
    """Fail early where classic snaps cannot run at all."""
    if not wanted.classic:
        return
    info = snapd.system_info()
    options = (info.get("sandbox-features") or {}).get("confinement-options")
    if info.get("on-classic") is False or (options is not None and "classic" not in options):
        raise ConfinementRefusedError(
            "snapd on this system cannot run classic snaps (it offers: "
            f"{', '.join(options or []) or 'nothing'})",
            hint="Use an ordinary Debian or Ubuntu; Ubuntu Core cannot run podwire.",
        )


def carry_out(
    snapd: Snapd, wanted: Wanted, steps: Iterable[Step], *, deadline: float
) -> list[dict[str, Any]]:
    """Do the steps one after another; return each with its seconds and snapd's tasks."""
    report = []
    for step in steps:
        started = time.monotonic()
        change: Mapping[str, Any] = {}
        try:
            change = _do(snapd, wanted, step, deadline)
        except AlreadyDoneError:
            # Somebody was faster; the state is the wanted one.
            change = {}
        except PodwireError as error:
            error.details.setdefault("steps", report)
            raise
        report.append(
            {
                **{key: value for key, value in asdict(step).items() if value is not None},
                "seconds": round(time.monotonic() - started, 2),
                "tasks": task_durations(change),
            }
        )
    return report


def _do(snapd: Snapd, wanted: Wanted, step: Step, deadline: float) -> Mapping[str, Any]:
    if step.action == "sideload":
        return _sideload(snapd, wanted, step, deadline)
    if step.action == "hold":
        return snapd.hold(step.snap, deadline=deadline)
    options: dict[str, Any] = {}
    if step.action == "install":
        options = {"channel": step.channel, "classic": wanted.classic or None}
    elif step.action == "refresh":
        # amend: a revision that came from a file may be replaced by the store's.
        record = snapd.snap(step.snap) or {}
        local = str(record.get("revision", "")).startswith("x")
        strict = record.get("confinement") != "classic"
        options = {
            "channel": step.channel,
            "classic": True if wanted.classic and strict else None,
            "amend": True if local else None,
        }
    elif step.action == "remove":
        options = {"purge": wanted.purge or None}
    return snapd.action(step.snap, step.action, deadline=deadline, **options)


def _sideload(snapd: Snapd, wanted: Wanted, step: Step, deadline: float) -> Mapping[str, Any]:
    file = snap_file(Path(step.file or ""))
    if file.name != step.snap:
        raise PodwireError(
            f"{file.path} holds the snap {file.name}, not {step.snap}", "Give MicroK8s' own file."
        )
    classic = file.confinement == "classic"
    if classic and not wanted.classic:
        raise ConfinementRefusedError(f"{file.path} is a classic snap", hint="Set classic: true.")
    if file.assertions is not None:
        snapd.assert_from(file.assertions)
    dangerous = wanted.dangerous and file.assertions is None
    return snapd.sideload(file.path, file.name, classic=classic, dangerous=dangerous, deadline=deadline)


def files_needed(snapd: Snapd, files: Iterable[WantedFile], snap: str | None = None) -> list[str]:
    """The paths of the files whose content is not installed, so that only those are copied to the node."""
    needed = []
    for wanted in files:
        name = snap or guess_name(wanted.path)
        record = snapd.snap(name)
        from_store = record is not None and name != SNAP and not str(record["revision"]).startswith("x")
        if record is None or not (from_store or same_content(record, wanted)):
            needed.append(wanted.path)
    return needed
