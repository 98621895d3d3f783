"""Leave nothing behind when a benchmark is stopped: signals unwind it, and leftovers are swept by name."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

NETNS = Path("/run/netns")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def unwind_on_signals() -> None:
    """Let SIGTERM, SIGINT and SIGHUP end the process by SystemExit(128 + signal), so that ``finally`` runs.

    Only the first one counts: another must not cut the cleaning up short.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            # A handler, not SIG_IGN: commands that clean up would inherit that.
            signal.signal(each, lambda *_: None)
        print(f"stopped by {signal.Signals(number).name}, cleaning up", file=sys.stderr)
        raise SystemExit(128 + number)

    for each in _SIGNALS:
        signal.signal(each, stop)


def default_signals() -> None:
    """For a forked child: it must not unwind what belongs to its parent."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)


@contextlib.contextmanager
def swept(prefix: str, directory: Path) -> Iterator[None]:
    """Afterwards no network namespace called ``prefix`` and something, no process in one, and no mount below
    ``directory`` is left.

    Whoever made them removes them. This is for what a signal caught half made, which its maker does not know
    of yet. ``prefix`` ends with a process id, so a digit after it makes the name somebody else's.
    """
    try:
        yield
    finally:
        for name in namespaces(prefix):
            for pid in _output("ip", "netns", "pids", name).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _output("ip", "netns", "del", name)
        for path in mounts(directory):
            _output("umount", path)


def namespaces(prefix: str) -> list[str]:
    """Named network namespaces that begin with ``prefix`` and no digit after it."""
    wanted = re.compile(re.escape(prefix) + r"(?!\d)")
    return sorted(path.name for path in NETNS.glob("*") if wanted.match(path.name))


def mounts(directory: Path) -> list[str]:
    """Mount points below a directory, the deepest first."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True)


def _output(*command: str) -> str:
    """What a command prints; its failure is shown and does not keep the rest from being cleaned up."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
    return done.stdout
