"""Events about objects: sent once, in the API's form, never more than the API server can bear."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from podwire.kube.client import KubeClient
from podwire.kube.events import BURST, Event, Reporter, Subject, event_name, event_object
from podwire.kube.reflector import Connection

from .api_server import Api, wait_for

EVENT = Event(Subject("Service", "shop", "web", "u1"), "Conflict", "node port 30080/TCP belongs to another")


def test_the_object_is_the_apis() -> None:
    value = event_object(EVENT, "n1", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc))
    assert value["metadata"] == {"name": event_name(EVENT), "namespace": "shop"}
    assert value["involvedObject"] == {
        "apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u1",
    }  # fmt: skip
    assert (value["type"], value["reason"], value["message"]) == ("Warning", EVENT.reason, EVENT.message)
    assert value["lastTimestamp"] == "2026-01-02T03:04:05Z"
    assert value["source"] == {"component": "podwire-agent", "host": "n1"}


def test_the_name_depends_on_what_is_said_not_on_who_says_it() -> None:
    other = EVENT._replace(message="something else")
    assert event_name(EVENT) == event_name(Event(*EVENT))
    assert event_name(EVENT) != event_name(other)
    assert event_name(EVENT).startswith("web.")


def test_events_are_sent_once_and_not_without_bounds(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    now = [0.0]
    reporter = Reporter(Connection(partial(KubeClient, kubeconfig)), "n1", clock=lambda: now[0])
    reporter.report(EVENT)
    reporter.report(EVENT)
    for number in range(2 * BURST):
        reporter.report(EVENT._replace(message=str(number)))
    wait_for(lambda: reporter.sent == BURST)
    assert reporter.dropped == BURST + 1
    assert {path for _, path, _, _ in server.writes} == {"/api/v1/namespaces/shop/events"}
    now[0] = 4000.0  # the API server has forgotten it by now
    reporter.report(EVENT)
    wait_for(lambda: reporter.sent == BURST + 1)
    reporter.stop()


def test_an_api_that_is_away_costs_the_event_alone(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    reporter = Reporter(Connection(partial(KubeClient, kubeconfig)), "n1")
    server.failing_writes = 503
    reporter.report(EVENT)
    wait_for(lambda: reporter.dropped == 1)
    server.failing_writes = 409  # another node's agent said it
    reporter.report(EVENT._replace(message="b"))
    server.failing_writes = 0
    reporter.report(EVENT._replace(message="c"))
    wait_for(lambda: reporter.sent >= 1)
    reporter.stop()
