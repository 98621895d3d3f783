"""Boot a kernel under qemu without hardware help, stream its console, read the tests' exit status from it."""

from __future__ import annotations

import ctypes
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

QEMU = "qemu-system-x86_64"
_PR_SET_PDEATHSIG = 1
MARK = re.compile(r"podwire-kernel-test: exit=(\d+)")


class MachineError(Exception):
    """The machine ended without telling how the tests went."""


def run_machine(kernel: Path, image: Path, *, timeout: float, memory_mib: int = 1536) -> int:
    """Boot, print what the machine prints, return the exit status of its tests.

    Raises MachineError when it crashes, hangs for longer than ``timeout`` seconds or says nothing.
    """
    if shutil.which(QEMU) is None:
        raise MachineError(f"{QEMU} is not installed: run make bootstrap, or install qemu-system-x86")
    command = [QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory_mib)]
    command += [
        "-kernel",
        str(kernel),
        "-initrd",
        str(image),
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
    ]
    command += ["-serial", "stdio", "-append", "console=ttyS0 panic=-1 quiet mitigations=off tsc=unstable"]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - no thread runs yet
    ) as machine:
        timer = threading.Timer(timeout, machine.kill)
        timer.start()
        try:
            assert machine.stdout is not None
            for line in machine.stdout:
                lines.append(line)
                sys.stdout.write(line.replace("\r", ""))
                sys.stdout.flush()
        finally:
            timed_out = not timer.is_alive()
            timer.cancel()
            machine.kill()
    for line in reversed(lines):
        found = MARK.search(line)
        if found:
            return int(found.group(1))
    if timed_out:
        raise MachineError(f"the machine did not finish within {timeout:.0f} s; its last lines are above")
    raise MachineError("the machine ended before its tests did; its last lines are above")


def _die_with_parent() -> None:
    """A machine whose runner was killed must not go on burning processor time."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
