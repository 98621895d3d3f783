"""Where the node's control groups (version 2) are mounted. ``choose`` is pure.

Socket programs are attached to the root of that tree: every process of the node is below it, pods included.
On a machine with unified control groups it is ``/sys/fs/cgroup``, on a hybrid one ``/sys/fs/cgroup/unified``.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import DatapathError

MOUNTINFO = Path("/proc/self/mountinfo")
STANDARD = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_OCTAL = re.compile(r"\\([0-7]{3})")


def choose(mountinfo: str) -> str | None:
    """The mount point of the whole tree, by the text of ``/proc/self/mountinfo``; None without one.

    A mount of a part of the tree does not count. Of several, one at a standard place is taken, else the
    shortest path.
    """
    found = []
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split()
        if separator and len(fields) >= 5 and right.split()[:1] == ["cgroup2"] and fields[3] == "/":
            found.append(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
    return min(found, key=lambda path: (path not in STANDARD, len(path), path), default=None)


def root() -> Path:
    """The node's tree; raises DatapathError when it is not mounted."""
    found = choose(MOUNTINFO.read_text())
    if found is None:
        raise DatapathError(
            "no control groups of version 2 are mounted on this node",
            f"Mount them (mount -t cgroup2 none {STANDARD[1]}) and run `podwire datapath restore`.",
        )
    return Path(found)
