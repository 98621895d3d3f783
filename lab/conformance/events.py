"""Keep the warnings while the specs run, and what pods were deleted when: both go with their namespaces."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.checks import Cluster

# Tabs would be turned into columns, and messages have several lines.
FIELD, RECORD = "\x1f", "\x1e"
EVENTS, PODS = "events.log", "pods.log"
_EVENT = (
    ".metadata.namespace",
    ".involvedObject.kind",
    ".involvedObject.name",
    ".lastTimestamp",
    ".reason",
    ".message",
)
_POD = (
    ".metadata.namespace",
    ".metadata.name",
    ".metadata.deletionTimestamp",
    ".metadata.deletionGracePeriodSeconds",
)


def template(fields: Sequence[str]) -> str:
    """The output format that prints these fields of each object. Pure."""
    return r'{"\x1f"}'.join(f"{{{field}}}" for field in fields) + r'{"\x1e"}'


@contextlib.contextmanager
def kept(cluster: Cluster, directory: Path) -> Iterator[None]:
    """Write every warning and every change of a pod to EVENTS and PODS while the context lasts."""
    common = [str(cluster.binary), f"--kubeconfig={cluster.lab.state / 'kubeconfig'}", "get"]
    common += ["--all-namespaces", "--watch-only"]
    events = [*common, "events", "--field-selector=type=Warning", f"--output=jsonpath={template(_EVENT)}"]
    pods = [*common, "pods", f"--output=jsonpath={template(_POD)}"]
    with _following(events, directory / EVENTS), _following(pods, directory / PODS):
        yield


@contextlib.contextmanager
def _following(command: Sequence[str], file: Path) -> Iterator[None]:
    over = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def follow() -> None:
        with file.open("wb") as out:
            while not over.is_set():
                # The API server ends a watch after a while, and when it restarts.
                process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
                running[:] = [process]
                process.wait()
                over.wait(1)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        for process in running:
            process.terminate()
        thread.join(5)
