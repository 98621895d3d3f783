"""What the running kernel offers, and what follows from it. ``decide`` functions are pure."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass

from podwire.bpf import BpfError, MapType, probe

from .errors import DatapathError, UnsupportedKernel

FLOOR = (5, 10)
TCX = "tcx"
CLSACT = "clsact"
EBPF = "ebpf"
LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class Features:
    """What was found by trying, on the running kernel."""

    release: str
    tcx: bool
    redirect_peer: bool
    redirect_neigh: bool
    ring_buffer: bool
    btf: bool
    socket_programs: bool = True

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def parse_release(release: str) -> tuple[int, int]:
    """``(5, 4)`` of ``5.4.0-200-generic``; raises DatapathError for what is no kernel release."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if not found:
        raise DatapathError(f"cannot read a version from the kernel release {release!r}")
    return int(found.group(1)), int(found.group(2))


def require_floor(release: str) -> None:
    """Raise UnsupportedKernel when the release is below the floor."""
    if parse_release(release) < FLOOR:
        floor = ".".join(map(str, FLOOR))
        raise UnsupportedKernel(
            f"this node runs kernel {release}, the datapath needs {floor} or newer",
            "Install a newer kernel and reboot (Ubuntu 20.04: apt install linux-generic-hwe-20.04, "
            "which is 5.15), or take the node out of group pod_nodes.",
        )


def probe_features(release: str | None = None) -> Features:
    """Ask the running kernel. Takes some 20 ms; needs root.

    Raises UnsupportedKernel below the floor, DatapathError when BPF cannot be used at all.
    """
    release = release or os.uname().release
    require_floor(release)
    if os.geteuid() != 0:
        raise DatapathError("loading BPF programs needs root", "Run it with sudo or as root.")
    try:
        return Features(
            release=release,
            tcx=probe.has_tcx(),
            redirect_peer=probe.has_helper("redirect_peer"),
            redirect_neigh=probe.has_helper("redirect_neigh"),
            ring_buffer=probe.has_map_type(MapType.RINGBUF),
            socket_programs=probe.has_socket_programs(),
            btf=os.path.exists("/sys/kernel/btf/vmlinux"),  # noqa: PTH110 - a plain question
        )
    except BpfError as error:
        raise DatapathError(
            f"this process may not use BPF: {error}",
            "Run as root with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN; a container needs --privileged.",
        ) from error


def decide_host_routing(wanted: str, features: Features) -> tuple[str, str]:
    """The mode that can be had, and why it is not the wanted one (empty when it is)."""
    if wanted == LEGACY:
        return LEGACY, ""
    missing = [f"bpf_{name}" for name in ("redirect_peer", "redirect_neigh") if not getattr(features, name)]
    if missing:
        return LEGACY, f"kernel {features.release} lacks {' and '.join(missing)}"
    return EBPF, ""


def decide_attach(wanted: str, features: Features) -> str:
    """How programs are attached: ``tcx`` where it exists, ``clsact`` otherwise or when asked for."""
    if wanted == TCX and not features.tcx:
        raise DatapathError(
            f"kernel {features.release} has no tcx", "Leave the attach kind at auto, or use a kernel >= 6.6."
        )
    return wanted if wanted in (TCX, CLSACT) else TCX if features.tcx else CLSACT
