"""Run netperf between two namespaces and read its figure."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache

from lab import rootfs
from lab.kubernetes.debian import Archive

from ..stopping import default_signals
from .topology import Pair, run

#: netperf test -> unit of its figure
UNITS = {"TCP_STREAM": "Mbit/s", "TCP_RR": "transactions/s", "TCP_CRR": "transactions/s"}
_SELECTOR = {"TCP_STREAM": "THROUGHPUT", "TCP_RR": "TRANSACTION_RATE", "TCP_CRR": "TRANSACTION_RATE"}
_PORT = "12865"


class NetperfError(RuntimeError):
    """A run of netperf gave no figure."""


def provide() -> None:
    """Put netperf on PATH: the installed one, or Debian's, fetched once into the build cache.

    It is in Debian's non-free component, which few machines have enabled. Raises LabError.
    """
    if shutil.which("netperf") and shutil.which("netserver"):
        return

    def fetch(target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="podwire-netperf-") as work:
            Archive(Path(work), print).unpack(["netperf"], target)

    tools = Cache().build("netperf", rootfs.SUITE, fetch) / "usr" / "bin"
    os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"


@contextlib.contextmanager
def server(pair: Pair) -> Iterator[None]:
    """netserver in the pair's server namespace, for as long as the block runs."""
    with subprocess.Popen(
        ["ip", "netns", "exec", pair.server, "netserver", "-D", "-4", "-p", _PORT],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            _wait_until_listening(pair)
            yield
        finally:
            process.terminate()


def _wait_until_listening(pair: Pair, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while _PORT not in run("ip", "netns", "exec", pair.server, "ss", "-Hltn", f"sport = :{_PORT}"):
        if time.monotonic() > deadline:
            raise NetperfError(f"netserver in {pair.server} does not listen on port {_PORT}")
        time.sleep(0.05)


def measure(pair: Pair, test: str, seconds: int) -> float:
    """One run of ``test``; the figure's unit is in UNITS."""
    output = run(
        "ip", "netns", "exec", pair.client, "netperf", "-P", "0", "-H", pair.address, "-p", _PORT,
        "-t", test, "-l", str(seconds), "--", "-k", _SELECTOR[test],
    )  # fmt: skip
    for line in output.splitlines():
        name, _, value = line.partition("=")
        if name == _SELECTOR[test]:
            return float(value)
    raise NetperfError(f"netperf {test} to {pair.address} gave no {_SELECTOR[test]}: {output!r}")


@contextlib.contextmanager
def cores_awake() -> Iterator[None]:
    """Keep every core out of its idle states with a SCHED_IDLE spinner: wake-ups from idle would dominate
    request/response figures and differ from run to run."""
    parent = os.getpid()
    children: list[int] = []
    try:
        for cpu in sorted(os.sched_getaffinity(0)):
            child = os.fork()
            if child == 0:
                _spin(cpu, parent)
            children.append(child)
        yield
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)


def _spin(cpu: int, parent: int) -> NoReturn:
    """Keep one core busy at idle priority for as long as the parent lives."""
    default_signals()
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass
    os._exit(0)
