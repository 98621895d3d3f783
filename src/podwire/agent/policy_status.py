"""Say in the status of CiliumNetworkPolicies and CiliumClusterwideNetworkPolicies whether they are valid.

Every agent knows it, and one must say it: each waits for a while of random length, and writes only if the
object, as it is known by then, still says something else. So usually one agent writes once."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from podwire.agent.policy_source import GROUPS
from podwire.agent.policy_store import PLURALS, VALID, Known, condition_wanted
from podwire.kube.client import ApiError
from podwire.kube.reflector import Connection
from podwire.policy.model import Origin

log = logging.getLogger(__name__)

SPREAD = (0.5, 4.0)
"""Seconds to wait before writing: at least, and at most."""
RETRY = 30.0
_GIVEN_UP = (403, 404, 405, 409, 422)
"""HTTP statuses after which the same write makes no sense: gone, changed meanwhile, or not allowed."""

Find = Callable[[str], Known | None]


def has_condition(kind: str) -> bool:
    """Has an object of this kind a status to say it in? Kubernetes' own has none."""
    return kind != "NetworkPolicy"


def outdated(known: Known) -> bool:
    """Does the status of an object say something else than it should? Pure."""
    return has_condition(known.policy.origin.kind) and known.taken.condition != condition_wanted(known)


def status_path(origin: Origin) -> str:
    group, plural, name = GROUPS[origin.kind], PLURALS[origin.kind], quote(origin.name, safe="")
    where = f"/namespaces/{quote(origin.namespace, safe='')}" if origin.namespace else ""
    return f"{group}{where}/{plural}/{name}/status"


def status_patch(known: Known, now: datetime) -> dict[str, Any]:
    """The condition, to be merged into the object, unless somebody changed that meanwhile. Pure."""
    wanted, before = condition_wanted(known), known.taken.condition
    condition = {
        "type": VALID,
        "status": "True" if wanted.valid else "False",
        "reason": wanted.reason,
        "message": wanted.message,
    }
    if before is None or before.valid != wanted.valid:
        condition["lastTransitionTime"] = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    elif known.taken.since:
        condition["lastTransitionTime"] = known.taken.since
    version = known.policy.resource_version
    return {
        "metadata": {"resourceVersion": version} if version else {},
        "status": {"conditions": [condition]},
    }


class ConditionWriter:
    """Writes conditions in a thread of its own."""

    def __init__(self, connection: Connection, find: Find) -> None:
        """``find``: an object by its key, as it is known when its time has come."""
        self.written = 0
        self.problem = ""
        """Why conditions cannot be written, as the API says; empty when they can."""
        self._connection = connection
        self._find = find
        self._due: dict[str, float] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="policy-status", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def look_at(self, objects: Mapping[str, Known]) -> None:
        """Objects, by key, that are new or have changed: their conditions may have to be written. Never
        blocks."""
        keys = [key for key, known in objects.items() if outdated(known)]
        if not keys:
            return
        now = time.monotonic()
        with self._wake:
            for key in keys:
                self._due.setdefault(key, now + random.uniform(*SPREAD))  # noqa: S311 - not a secret
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._stopping and (pause := self._pause()) != 0.0:
                    self._wake.wait(pause)
                if self._stopping:
                    return
                key = min(self._due, key=self._due.__getitem__)
                del self._due[key]
            known = self._find(key)
            if known is not None and outdated(known):
                self._write(key, known)

    def _pause(self) -> float | None:
        """Seconds to wait for the next; None: there is none."""
        if not self._due:
            return None
        return max(0.0, min(self._due.values()) - time.monotonic())

    def _write(self, key: str, known: Known) -> None:
        patch = status_patch(known, datetime.now(timezone.utc))
        try:
            self._connection.client().patch(status_path(known.policy.origin), patch)
        except ApiError as error:
            if error.status in _GIVEN_UP:
                log.info("condition of %s is not written: %s", key, error)
            else:
                with self._wake:
                    self._due.setdefault(key, time.monotonic() + RETRY)
            # A conflict is no problem: the object has changed, and is looked at again as it comes.
            self.problem = "" if error.status in (404, 409) else f"conditions of policies: {error}"
        except Exception:
            log.exception("condition of %s", key)
        else:
            self.written += 1
            self.problem = ""
