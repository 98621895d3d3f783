"""DELs that the CNI plugin stored while the agent was away."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from podwire.agent import cni

log = logging.getLogger(__name__)


def drain(directory: Path, delete: Callable[[str, str], object]) -> int:
    """Carry out every stored DEL, oldest first; returns how many.

    A file leaves the queue after its DEL succeeded. One that cannot be understood is set aside as NAME.bad,
    one whose DEL failed stays for the next time."""
    done = 0
    try:
        files = sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    except OSError as error:
        log.error("CNI queue %s: %s", directory, error)
        return 0
    for path in files:
        try:
            body = json.loads(path.read_bytes())
            request = cni.parse_request("del", body)
        except (OSError, ValueError, cni.CniError) as error:
            log.error("stored DEL %s is unusable and set aside as .bad: %s", path, error)
            path.rename(path.with_suffix(".bad"))
            continue
        try:
            delete(request.container_id, request.ifname)
        except cni.CniError as error:
            log.warning("stored DEL %s failed and is kept: %s", path, error)
            continue
        path.unlink(missing_ok=True)
        done += 1
    return done
