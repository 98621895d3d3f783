"""List and watch of any resource: nothing is lost, nothing delivered twice, nothing taken away early."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from podwire.kube.client import KubeClient
from podwire.kube.reflector import Change, Connection, Reflector, Resource, fixed

from . import cluster_api
from .api_server import Api, wait_for

THINGS = "/api/v1/things"


def thing(name: str, version: str = "1", value: int = 0) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": name, "resourceVersion": version}, "value": value}


class State:
    """What a consumer makes of the changes."""

    def __init__(self) -> None:
        self.things: dict[str, int] = {}
        self.calls: list[tuple[list[str], bool]] = []
        self.versions: list[tuple[str, list[str]]] = []

    def take_version(self, version: str) -> None:
        """Remember the version, and what had been delivered by then."""
        self.versions.append((version, sorted(self.things)))

    def take(self, changes: Sequence[Change[int]], complete: bool) -> None:
        for key, value in changes:
            if value is None:
                self.things.pop(key, None)
            else:
                self.things[key] = value
        self.calls.append((sorted(key for key, _ in changes), complete))


@pytest.fixture
def follow(api: tuple[Api, Path]) -> Iterator[Callable[..., tuple[Reflector[int], State]]]:
    server, kubeconfig = api
    server.objects[THINGS] = []
    started: list[Reflector[int]] = []

    def start(**more: Any) -> tuple[Reflector[int], State]:
        state = State()
        resource = Resource("Things", more.get("path", fixed(THINGS)), lambda value: int(value["value"]))
        connection = Connection(partial(KubeClient, kubeconfig))
        reflector = Reflector(connection, resource, state.take, state.take_version)
        reflector.start()
        started.append(reflector)
        return reflector, state

    yield start
    for reflector in started:
        reflector.stop()


def test_pages_are_delivered_one_by_one_and_the_last_says_so(api: tuple[Api, Path], follow: Any) -> None:
    server, _ = api
    server.page = 2
    server.objects[THINGS] = [thing(name) for name in "abcde"]
    _, state = follow()
    wait_for(lambda: state.calls and state.calls[-1][1])
    assert state.calls == [(["ns/a", "ns/b"], False), (["ns/c", "ns/d"], False), (["ns/e"], True)]


def test_an_empty_list_is_delivered(follow: Any) -> None:
    reflector, state = follow()
    wait_for(lambda: reflector.synced)
    assert state.calls == [([], True)]


def test_a_version_is_told_after_what_it_stands_for(api: tuple[Api, Path], follow: Any) -> None:
    server, _ = api
    server.objects[THINGS] = [thing("a")]
    _, state = follow()
    wait_for(lambda: state.versions)
    assert state.versions == [("10", ["ns/a"])]  # the list's own, which is newer than its objects'
    server.events[THINGS].append({"type": "ADDED", "object": thing("b", "20")})
    wait_for(lambda: ("20", ["ns/a", "ns/b"]) in state.versions)
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "33"}}}
    server.events[THINGS].append(bookmark)
    wait_for(lambda: ("33", ["ns/a", "ns/b"]) in state.versions)


def test_a_watch_goes_on_where_it_ended(api: tuple[Api, Path], follow: Any) -> None:
    server, _ = api
    server.objects[THINGS] = [thing("a")]
    _, state = follow()
    wait_for(lambda: state.things)
    server.events[THINGS].append({"type": "MODIFIED", "object": thing("a", "20", 7)})
    wait_for(lambda: state.things == {"ns/a": 7})
    server.events[THINGS].append({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "42"}}})
    wait_for(lambda: "42" in server.versions)
    assert server.versions[0] == "10"
    assert server.lists == 1
    assert "ns/" not in state.things  # a bookmark is no object


def test_a_broken_connection_is_followed_by_a_watch_not_a_list(api: tuple[Api, Path], follow: Any) -> None:
    server, _ = api
    server.objects[THINGS] = [thing("a")]
    reflector, state = follow()
    wait_for(lambda: reflector.connected and server.watches)
    server.failing = True
    wait_for(lambda: not reflector.connected)
    server.events[THINGS].append({"type": "ADDED", "object": thing("b", "30", 3)})
    server.failing = False
    wait_for(lambda: state.things == {"ns/a": 0, "ns/b": 3})
    assert reflector.connected
    assert server.lists == 1


@pytest.mark.parametrize("how", ["status", "event"])
def test_a_forgotten_version_lists_again_and_delivers_the_difference(
    api: tuple[Api, Path], follow: Any, how: str
) -> None:
    server, _ = api
    server.objects[THINGS] = [thing("same"), thing("goes"), thing("changes")]
    reflector, state = follow()
    wait_for(lambda: len(state.things) == 3 and server.watches)
    del state.calls[:]
    server.objects[THINGS] = [thing("same"), thing("changes", "2", 5), thing("comes", "3", 6)]
    if how == "status":
        server.gone = True
    else:
        status = {"kind": "Status", "code": 410, "message": "too old resource version"}
        server.events[THINGS].append({"type": "ERROR", "object": status})
    wait_for(lambda: state.things == {"ns/same": 0, "ns/changes": 5, "ns/comes": 6})
    assert [keys for keys, _ in state.calls] == [["ns/changes"], ["ns/comes", "ns/goes"]]
    assert reflector.connected


def test_what_goes_while_a_list_breaks_off_is_taken_away(api: tuple[Api, Path], follow: Any) -> None:
    server, _ = api
    server.objects[THINGS] = [thing("a"), thing("b"), thing("c")]
    server.break_list_at = "2"
    reached = threading.Event()

    def path(client: KubeClient) -> str:
        if server.lists == 1:  # the second try
            server.objects[THINGS] = [thing("b"), thing("c")]
            reached.set()
        return THINGS

    reflector, state = follow(path=path)
    wait_for(lambda: reflector.synced)
    assert reached.is_set()
    assert state.things == {"ns/b": 0, "ns/c": 0}
    assert state.calls[0] == (["ns/a"], False)


def test_an_api_that_ends_every_watch_at_once_is_not_asked_in_a_tight_loop(
    api: tuple[Api, Path], follow: Any
) -> None:
    server, _ = api
    server.watch_seconds = 0.0
    follow()
    wait_for(lambda: server.watches >= 2)
    before = server.watches
    threading.Event().wait(0.5)
    assert server.watches - before <= 2


def test_an_object_that_cannot_be_read_is_no_end(api: tuple[Api, Path], follow: Any) -> None:
    server, _ = api
    server.objects[THINGS] = [{"metadata": {"name": "a"}, "value": "x"}]
    reflector, state = follow()
    wait_for(lambda: "ValueError" in reflector.detail)
    server.objects[THINGS] = [thing("a")]
    wait_for(lambda: state.things == {"ns/a": 0})


def test_selectors_are_part_of_lists_and_watches(tmp_path: Path) -> None:
    running = cluster_api.serve(tmp_path)
    store, kubeconfig = next(running)

    def pod(name: str, node: str) -> None:
        store.put(
            cluster_api.PODS, {"metadata": {"namespace": "ns", "name": name}, "spec": {"nodeName": node}}
        )

    pod("mine", "self")
    pod("other", "elsewhere")
    found: dict[str, str | None] = {}
    selector = {"fieldSelector": "spec.nodeName=self"}
    resource = Resource(
        "Pods", fixed(cluster_api.PODS), lambda value: str(value["spec"]["nodeName"]), selector
    )
    reflector = Reflector(
        Connection(partial(KubeClient, kubeconfig)), resource, lambda changes, complete: found.update(changes)
    )
    reflector.start()
    wait_for(lambda: found)
    pod("another", "elsewhere")
    pod("later", "self")
    wait_for(lambda: "ns/later" in found)
    assert found == {"ns/mine": "self", "ns/later": "self"}
    reflector.stop()
    next(running, None)
