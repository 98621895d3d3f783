"""Objects from a file: what changed is delivered soon, what cannot be read changes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podwire.kube.files import FileKind, FileReflector, objects_of

from .api_server import wait_for


def thing(name: str, value: int = 0, kind: str = "Thing") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"namespace": "ns", "name": name}, "value": value}


Calls = list[tuple[dict[str, "int | None"], bool]]


@pytest.fixture
def follow() -> Iterator[Callable[[Path], tuple[FileReflector, Calls]]]:
    started: list[FileReflector] = []

    def start(path: Path) -> tuple[FileReflector, Calls]:
        calls: Calls = []
        kind = FileKind(
            "Thing",
            lambda value: int(value["value"]),
            lambda changes, done: calls.append((dict(changes), done)),
        )
        started.append(FileReflector(path, [kind]))
        started[-1].start()
        return started[-1], calls

    yield start
    for reflector in started:
        reflector.stop()


def replace(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


def test_the_difference_is_delivered_within_milliseconds(tmp_path: Path, follow: Any) -> None:
    path = tmp_path / "objects.json"
    replace(path, [thing("a"), thing("b"), thing("x", kind="Other")])
    reflector, calls = follow(path)
    wait_for(lambda: calls)
    assert calls == [({"ns/a": 0, "ns/b": 0}, True)]
    started = time.monotonic()
    replace(path, [thing("a", 7), thing("c")])
    wait_for(lambda: len(calls) == 2)
    assert time.monotonic() - started < 0.5
    assert calls[1] == ({"ns/a": 7, "ns/b": None, "ns/c": 0}, True)
    assert reflector.connected


def test_a_file_that_breaks_keeps_what_it_said(tmp_path: Path, follow: Any) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text("- {kind: Thing, metadata: {namespace: ns, name: a}, value: 1}\n")
    reflector, calls = follow(path)
    wait_for(lambda: calls)
    path.write_text("- {kind: Thing, metadata: {namespace: ns\n")
    wait_for(lambda: not reflector.connected)
    path.unlink()
    wait_for(lambda: "No such file" in reflector.detail)
    assert len(calls) == 1
    path.write_text("- {kind: Thing, metadata: {namespace: ns, name: a}, value: 2}\n")
    wait_for(lambda: len(calls) == 2)
    assert calls[1] == ({"ns/a": 2}, True)


def test_a_directory_that_comes_later_is_found(tmp_path: Path, follow: Any) -> None:
    path = tmp_path / "later" / "objects.json"
    reflector, calls = follow(path)
    wait_for(lambda: "later" in reflector.detail)
    path.parent.mkdir()
    replace(path, [])
    wait_for(lambda: calls == [({}, True)])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("kind: List\nitems:\n- {kind: A, metadata: {name: a}}\n", id="a List"),
        pytest.param("- {kind: A, metadata: {name: a}}\n", id="a list"),
        pytest.param("---\nkind: A\nmetadata: {name: a}\n---\n", id="documents"),
    ],
)
def test_the_forms_of_a_file(text: str) -> None:
    assert objects_of(text, as_json=False) == [{"kind": "A", "metadata": {"name": "a"}}]


@pytest.mark.parametrize("text", ["[3]", '[{"kind": "A"}]', '[{"metadata": {"name": "a"}}]'])
def test_what_is_no_object_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="object 1 of the file"):
        objects_of(text, as_json=True)
