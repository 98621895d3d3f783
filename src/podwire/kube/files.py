"""Objects of the Kubernetes API from a file, for hosts without that API: followed as a reflector follows it.

It holds objects of any kinds, as ``kubectl get -o yaml`` prints them: one List, a plain list, or several YAML
documents. A name that ends in ``.json`` is read as JSON, which is much faster for thousands of objects."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from podwire.kube.inotify import FileWatch
from podwire.kube.reflector import Change, OnChanges, key_of

log = logging.getLogger(__name__)

T = TypeVar("T")
INTERVAL = 1.0
"""Seconds between two looks while the file's directory does not exist, and at a stop at most."""


class FileKind(Generic[T]):
    """One kind of the file: remembers what was delivered and delivers the difference. ``parse`` may raise
    ValueError for an object that makes no sense: then nothing of the file's kind is taken."""

    def __init__(self, kind: str, parse: Callable[[Mapping[str, Any]], T], on_changes: OnChanges[T]) -> None:
        self.kind = kind
        self._parse = parse
        self._on_changes = on_changes
        self._known: dict[str, Mapping[str, Any]] | None = None

    def take(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Take everything of this kind that the file has now."""
        before = self._known or {}
        found = {key_of(value): value for value in objects}
        changes: list[Change[T]] = [
            (key, self._parse(value)) for key, value in found.items() if before.get(key) != value
        ]
        changes += [(key, None) for key in before if key not in found]
        first, self._known = self._known is None, found
        if changes or first:
            self._on_changes(changes, True)


class FileReflector:
    """A file and the kinds to look for in it. ``connected`` and ``detail`` as those of a Reflector."""

    def __init__(self, path: Path, kinds: Iterable[FileKind[Any]]) -> None:
        self.connected = False
        self.detail = f"{path} not read yet"
        self._path = path
        self._kinds = tuple(kinds)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="object-file", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                watch = FileWatch(self._path)
            except OSError as error:
                self._failed(error)
                self._stop.wait(INTERVAL)
                continue
            try:
                self._follow(watch)
            finally:
                watch.close()

    def _follow(self, watch: FileWatch) -> None:
        self._read()
        while not self._stop.is_set():
            if watch.wait(INTERVAL):
                self._read()

    def _read(self) -> None:
        try:
            objects = objects_of(self._path.read_text(encoding="utf-8"), as_json=self._path.suffix == ".json")
        except (OSError, ValueError, yaml.YAMLError) as error:
            self._failed(error)
            return
        try:
            for kind in self._kinds:
                kind.take(value for value in objects if value["kind"] == kind.kind)
        except ValueError as error:
            self._failed(error)
        else:
            self.connected, self.detail = True, str(self._path)

    def _failed(self, error: Exception) -> None:
        if self.connected or self.detail != str(error):
            log.error("object file %s: %s; keeping what it said before", self._path, error)
        self.connected, self.detail = False, str(error)


def objects_of(text: str, *, as_json: bool) -> list[dict[str, Any]]:
    """The objects that a file's text holds. Raises ValueError naming the first that is none, or YAMLError."""
    documents = [json.loads(text)] if as_json else list(yaml.load_all(text, _Loader))
    objects = [value for document in documents for value in _flat(document)]
    for number, value in enumerate(objects, start=1):
        if not isinstance(value, dict) or not isinstance(value.get("kind"), str) or not key_of(value):
            raise ValueError(f"object {number} of the file has no kind or no name")
    return objects


def _flat(document: Any) -> Iterator[Any]:
    if document is None:
        return
    if isinstance(document, list):
        yield from document
    elif isinstance(document, dict) and isinstance(document.get("items"), list):
        yield from document["items"]
    else:
        yield document


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same language; the one in C is ten times as fast and not everywhere."""
