"""Kubernetes Events: what is wrong with an object, told where its owner looks. Best effort, never in the way.

An Event's name is made from what it says, so that the agents of all nodes together report a problem once."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple
from urllib.parse import quote

from podwire.kube.client import ApiError
from podwire.kube.reflector import Connection

log = logging.getLogger(__name__)

COMPONENT = "podwire-agent"
LONGEST_MESSAGE = 1024
BURST = 25
PER_SECOND = 0.2
"""So many Events at once, and then so many a second: an agent must not fill the API server's store."""
REMEMBERED = 1000
AGAIN = 3600.0
"""Seconds after which the same Event is sent again: the API server forgets it after an hour."""
_CONFLICT = 409


class Subject(NamedTuple):
    """What an Event is about."""

    kind: str
    namespace: str
    name: str
    uid: str = ""


class Event(NamedTuple):
    """A warning about an object."""

    subject: Subject
    reason: str
    """One CamelCase word."""
    message: str


def event_name(event: Event) -> str:
    """The same for the same thing said about the same object."""
    digest = hashlib.sha256("\0".join((*event.subject, event.reason, event.message)).encode()).hexdigest()
    return f"{event.subject.name}.{digest[:16]}"


def event_object(event: Event, host: str, now: datetime) -> dict[str, Any]:
    """The Event as the API takes it."""
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    subject = event.subject
    involved = {
        "apiVersion": "v1",
        "kind": subject.kind,
        "namespace": subject.namespace,
        "name": subject.name,
    }
    if subject.uid:
        involved["uid"] = subject.uid
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event_name(event), "namespace": subject.namespace},
        "involvedObject": involved,
        "reason": event.reason,
        "message": event.message[:LONGEST_MESSAGE],
        "type": "Warning",
        "source": {"component": COMPONENT, "host": host},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
        "reportingComponent": COMPONENT,
        "reportingInstance": host,
    }


class Allowance:
    """A token bucket. Pure but for the clock it is given, in seconds."""

    def __init__(self, burst: int, per_second: float, now: float) -> None:
        self._burst = burst
        self._per_second = per_second
        self._tokens = float(burst)
        self._last = now

    def take(self, now: float) -> bool:
        """May something be done now?"""
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._per_second)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Reporter:
    """Sends Events from a thread of its own. What cannot be sent is dropped and counted."""

    def __init__(
        self, connection: Connection, host: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sent = 0
        self.dropped = 0
        self._connection = connection
        self._host = host
        self._clock = clock
        self._queue: queue.Queue[Event | None] = queue.Queue(REMEMBERED)
        self._allowance = Allowance(BURST, PER_SECOND, clock())
        self._recent: OrderedDict[str, float] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="kube-events", daemon=True)
        self._thread.start()

    def report(self, event: Event) -> None:
        """Send an Event soon, unless the same was sent a short while ago. Never blocks."""
        name, now = event_name(event), self._clock()
        if now - self._recent.get(name, -AGAIN) < AGAIN:
            return
        if not self._allowance.take(now):
            self.dropped += 1
            return
        self._recent[name] = now
        self._recent.move_to_end(name)
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def stop(self) -> None:
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return  # a daemon thread: it ends with the process

    def _run(self) -> None:
        while (event := self._queue.get()) is not None:
            try:
                self._send(event)
                self.sent += 1
            except ApiError as error:
                if error.status == _CONFLICT:
                    continue  # another node's agent was faster
                self.dropped += 1
                log.warning("event %s for %s is not sent: %s", event.reason, event.subject.name, error)

    def _send(self, event: Event) -> None:
        path = f"/api/v1/namespaces/{quote(event.subject.namespace, safe='')}/events"
        value = event_object(event, self._host, datetime.now(timezone.utc))
        self._connection.client().create(path, value)
