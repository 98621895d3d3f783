"""Keep the cluster's warnings while the specs run: they are deleted with the specs' namespaces."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from lab.checks import Cluster

_FIELDS = (".metadata.namespace", ".involvedObject.kind", ".involvedObject.name", ".reason", ".message")
TEMPLATE = "{'\\t'}".join(f"{{{field}}}" for field in _FIELDS).replace("'", '"') + '{"\\n"}'


@contextlib.contextmanager
def kept(cluster: Cluster, file: Path) -> Iterator[None]:
    """Write every warning event of the context's time to a file, a line each."""
    command = [
        str(cluster.binary),
        f"--kubeconfig={cluster.lab.state / 'kubeconfig'}",
        "get",
        "events",
        "--all-namespaces",
        "--watch-only",
        "--field-selector=type=Warning",
        f"--output=jsonpath={TEMPLATE}",
    ]
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
