"""Follow a resource of the Kubernetes API: list it once, then watch it, for ever.

Objects are parsed as they come and forgotten as JSON: of ten thousand services a page at a time is in memory.
What is remembered here is one resource version per object, so that a second list delivers only what changed
and names what has gone meanwhile; nothing is taken away before that list is complete. Losing the API delivers
nothing: the last state stays valid."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from podwire.kube.client import ApiError, KubeClient

log = logging.getLogger(__name__)

T = TypeVar("T")
Change = tuple[str, T | None]
"""Key of an object (``namespace/name``, or ``name`` where there are no namespaces) and what it is now; None =
gone."""
OnChanges = Callable[[Sequence[Change[T]], bool], None]
"""Takes changes, in a thread of the reflector's. False: more of the same list follows; True: with these, what
was delivered is the complete state of one moment."""
OnVersion = Callable[[str], None]
"""Takes the resource version up to which everything was delivered, in a thread of the reflector's."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 20.0
QUICK = 1.0
"""Seconds: a watch that ends sooner without an event is started again only after a pause."""
_GONE = 410
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """What to follow and how to read it."""

    name: str
    """For messages: ``Nodes``."""
    path: Callable[[KubeClient], str]
    """Path of the collection; asked before each list, because another version of the API may serve another
    one. Raises ApiError."""
    parse: Callable[[Mapping[str, Any]], T]
    """Keeps what is needed of an object. Must not raise for what the API server accepts."""
    selector: Mapping[str, str] = field(default_factory=dict)
    """``fieldSelector`` or ``labelSelector``, where not every object is wanted."""


def fixed(path: str) -> Callable[[KubeClient], str]:
    """A path that every version of the API serves."""
    return lambda client: path


class Connection:
    """One client for all reflectors of an agent, made when first needed (which takes a third of a second)."""

    def __init__(self, make: Callable[[], KubeClient]) -> None:
        self._make = make
        self._client: KubeClient | None = None
        self._guard = threading.Lock()

    @property
    def known(self) -> KubeClient | None:
        return self._client

    def client(self) -> KubeClient:
        """Raises ApiError when the kubeconfig cannot be used."""
        with self._guard:
            if self._client is None:
                self._client = self._make()
            return self._client


class Reflector(Generic[T]):
    """One resource. ``connected`` says whether what was delivered is current; ``detail`` why not, or from
    where."""

    def __init__(
        self,
        connection: Connection,
        resource: Resource[T],
        on_changes: OnChanges[T],
        on_version: OnVersion = lambda version: None,
    ) -> None:
        self.connected = False
        self.synced = False
        """A complete list was delivered once."""
        self.detail = "not connected yet"
        self._connection = connection
        self._resource = resource
        self._on_changes = on_changes
        self._on_version = on_version
        self._known: dict[str, str] = {}
        self._path = ""
        self._version = ""
        self._stop = threading.Event()
        # A daemon thread: it may sit in a read for a minute, and the process must not wait for that to end.
        self._thread = threading.Thread(target=self._run, name=f"kube-{resource.name.lower()}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    # -- the loop ----------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            try:
                if self._step():
                    pause = FIRST_PAUSE
                    continue
            except ApiError as error:
                watching, self._version = bool(self._version), self._after(error)
                if watching and error.status == _GONE:
                    log.info("%s: %s; listing again", self._resource.name, error)
                    continue
                if self.connected or self.detail != str(error):
                    log.warning("%s; keeping the last known %s", error, self._resource.name)
                self.connected, self.detail = False, str(error)
            except Exception as error:
                log.exception("following %s; trying again", self._resource.name)
                self.connected, self.detail, self._version = False, f"{type(error).__name__}: {error}", ""
            # Spread: every agent of the cluster loses the API at the same moment.
            self._stop.wait(pause * random.uniform(0.7, 1.3))  # noqa: S311 - not a secret
            pause = min(pause * 2, LONGEST_PAUSE)

    def _after(self, error: ApiError) -> str:
        """The version to go on from; empty when it was forgotten or is served no more: list again."""
        return "" if error.status in (_GONE, _NOT_FOUND) else self._version

    def _step(self) -> bool:
        """List when there is nothing to go on from, then watch once. False: the API answered, but ended the
        watch at once. Raises ApiError."""
        client = self._connection.client()
        if not self._version:
            self._list(client)
        started = time.monotonic()
        return self._watch(client) or time.monotonic() - started > QUICK

    def _list(self, client: KubeClient) -> None:
        self._path = self._resource.path(client)
        found: dict[str, str] = {}
        changes: list[Change[T]] = []
        version = ""
        for page in client.list_pages(self._path, self._resource.selector):
            if self._stop.is_set():
                return
            if changes:  # of the page before
                self._on_changes(changes, False)
                self._known.update(found)  # should the list break off here, the next one knows of these
            changes = [change for item in page.items if (change := self._news(item, found)) is not None]
            version = page.version or version
        changes += [(key, None) for key in self._known.keys() - found.keys()]
        self._known = found
        self.connected, self.detail = True, client.server
        if changes or not self.synced:
            self._on_changes(changes, True)
        self.synced = True
        self._version = version
        self._on_version(version)

    def _watch(self, client: KubeClient) -> bool:
        """Follow one watch until it ends; True when anything came. Raises ApiError."""
        came = False
        for events in client.watch(self._path, self._version, self._resource.selector):
            if self._stop.is_set():
                return True
            self.connected, self.detail = True, client.server
            came = came or bool(events)
            ended = self._take(events)
            if ended:
                log.info("watch of %s ended: %s; listing again", self._resource.name, ended)
                self._version = ""
                return came
        return came

    def _take(self, events: Sequence[Mapping[str, Any]]) -> str:
        """Deliver what came together; the reason when the API says that it cannot go on."""
        changes: dict[str, T | None] = {}
        ended = ""
        for event in events:
            value = event.get("object") or {}
            kind = event.get("type")
            if kind == "ERROR":
                ended = str(value.get("message", "no reason given"))
                break
            if kind == "DELETED":
                key = key_of(value)
                self._known.pop(key, None)
                changes[key] = None
            elif kind in ("ADDED", "MODIFIED"):
                change = self._news(value, self._known)
                if change is not None:
                    changes[change[0]] = change[1]
            self._version = version_of(value) or self._version
        if changes:
            self._on_changes(list(changes.items()), True)
        if events:
            self._on_version(self._version)
        return ended

    def _news(self, value: Mapping[str, Any], found: dict[str, str]) -> Change[T] | None:
        """Note an object in ``found``; the change, None when this very version was delivered before."""
        key, version = key_of(value), version_of(value)
        old = self._known.get(key)
        found[key] = version
        if version and old == version:
            return None
        return key, self._resource.parse(value)


def key_of(value: Mapping[str, Any]) -> str:
    """``namespace/name``, or ``name`` where there are no namespaces."""
    metadata = value.get("metadata") or {}
    namespace = metadata.get("namespace")
    name = str(metadata.get("name", ""))
    return f"{namespace}/{name}" if namespace else name


def version_of(value: Mapping[str, Any]) -> str:
    return str((value.get("metadata") or {}).get("resourceVersion") or "")
