"""When endpoints are judged, and when everything is open, with the real threads and an API; the kernel's
part is a count of writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from podwire.agent import identities, identity_choice, identity_controller
from podwire.agent.cluster import Cluster
from podwire.agent.config import config_from_dict
from podwire.agent.identities import Identities
from podwire.agent.identity_controller import SETTLE
from podwire.agent.model import CLOSED, OPEN, NodeInfo, PolicyAssignment
from podwire.agent.reconcile import Report
from podwire.agent.state import StateStore
from podwire.kube import reflector
from podwire.kube.client import KubeClient
from podwire.kube.reflector import Connection
from podwire.policy.model import Labels
from tests.unit.kube.api_server import wait_for
from tests.unit.kube.cluster_api import (
    BUILT_IN,
    CUSTOM,
    IDENTITIES,
    NODE_ENDPOINTS,
    SLICES,
    ClusterApi,
    serve,
)

from .test_identity_census import endpoint

JUDGED = PolicyAssignment(9)


class Keeper:
    """Knows the policy of whoever has an identity."""

    def assignment(self, key: str, identity: int) -> PolicyAssignment | None:
        return JUDGED if identity > 255 else CLOSED


class Writes:
    """In the place of the endpoints."""

    def __init__(self) -> None:
        self.count = 0
        self.failures: dict[tuple[str, Any], str] = {}
        self.identities: dict[str, tuple[int, Labels]] = {}

    def set_identities(self, identities: Mapping[str, tuple[int, Labels]]) -> None:
        self.identities |= identities

    def sync(self) -> Report:
        self.count += 1
        return Report(failures=self.failures)


Make = Callable[..., tuple[Identities, Writes]]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ClusterApi]:
    server = serve(tmp_path, ClusterApi(BUILT_IN))
    api, _ = next(server)
    yield api
    next(server, None)


@pytest.fixture
def make(api: ClusterApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(reflector, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(reflector, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(identities, "ABSENT", 1.0)
    started: list[Identities] = []

    def start(nodes: tuple[str, ...] = (), **settings: Any) -> tuple[Identities, Writes]:
        config = config_from_dict({"node_name": "self", "state_dir": str(tmp_path / "state"), **settings})
        store = StateStore(config.state_dir)
        cluster = Cluster(config, store, "192.0.2.1")
        own = NodeInfo("self", "10.1.1.0/24", ("192.0.2.1",), uid="u1")
        cluster.set_nodes((own, *(NodeInfo(name, "10.1.2.0/24", ("192.0.2.2",)) for name in nodes)))
        made = Identities(config, store, Connection(partial(KubeClient, tmp_path / "kubeconfig")), Keeper())
        writes = Writes()
        made.begin(cluster, writes)  # type: ignore[arg-type]
        started.append(made)
        return made, writes

    yield start
    for made in started:
        made.stop()


def assigned(made: Identities, identity: int = 300) -> PolicyAssignment | None:
    return made.hooks().assign("c-a-eth0", identity)


def test_while_nothing_is_known_nothing_is_open(api: ClusterApi, make: Make) -> None:
    api.fail()
    made, _ = make()
    time.sleep(0.3)
    assert assigned(made, 0) is None
    assert assigned(made, 3) is None
    assert assigned(made, 300) == JUDGED
    assert assigned(made, 5) == CLOSED
    assert made.problems() == []


def test_without_definitions_everything_is_open_after_a_while(api: ClusterApi, make: Make) -> None:
    made, writes = make()
    time.sleep(0.3)
    assert assigned(made, 0) is None
    wait_for(lambda: assigned(made, 0) == OPEN)
    wait_for(lambda: writes.count)
    assert any("serves no" in problem and "not enforced" in problem for problem in made.problems())
    api.serve(*CUSTOM)
    wait_for(lambda: assigned(made, 0) is None)
    assert made.problems() == []


def test_an_api_that_was_away_has_its_time_to_learn_of_definitions(
    api: ClusterApi, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = make()
    time.sleep(0.3)
    api.fail()
    time.sleep(2.5)
    api.fail(failing=False)
    time.sleep(0.4)
    assert assigned(made, 0) is None


def test_definitions_that_go_open_nothing(api: ClusterApi, make: Make) -> None:
    api.serve(*CUSTOM)
    made, _ = make()
    wait_for(lambda: made.view.world.complete)
    for path in CUSTOM:
        del api.objects[path]
    api.fail()
    api.fail(failing=False)
    time.sleep(2)
    assert assigned(made, 0) is None


@pytest.mark.parametrize("settings", [{"policy": {"enforcement": "never"}}, {"node_source": "file"}])
def test_where_nothing_is_enforced_everything_is_open(make: Make, settings: dict[str, Any]) -> None:
    made, _ = make(**settings)
    assert assigned(made, 0) == OPEN


def test_a_datapath_without_policies_is_a_problem_and_open(api: ClusterApi, make: Make) -> None:
    api.serve(*CUSTOM)
    made, _ = make()
    made.set_datapath(judges=False)
    assert assigned(made, 0) == OPEN
    assert [problem for problem in made.problems() if "podwire.ebpf.datapath" in problem]
    made.set_datapath(judges=True)
    assert assigned(made, 0) is None
    assert made.problems() == []


def test_endpoints_get_identities_and_are_published(api: ClusterApi, make: Make) -> None:
    api.serve(*CUSTOM)
    made, writes = make()
    api.put("/api/v1/namespaces", {"metadata": {"name": "ns"}})
    pod = {
        "metadata": {"namespace": "ns", "name": "a", "labels": {"app": "web"}},
        "spec": {"nodeName": "self"},
    }
    api.put("/api/v1/pods", pod)
    made.hooks().changed((endpoint("a", 2),))
    wait_for(lambda: writes.identities)
    number, labels = writes.identities["c-a-eth0"]
    assert labels["k8s:app"] == "web"

    def published() -> list[int]:
        value = api.get(NODE_ENDPOINTS, "self") or {"spec": {"endpoints": []}}
        return [item["identity"] for item in value["spec"]["endpoints"]]

    wait_for(lambda: published() == [number])
    assert made.view.world.local["c-a-eth0"].identity == number


def test_prefixes_are_known_by_their_identities_when_somebody_says_so(api: ClusterApi, make: Make) -> None:
    from .test_desired import BASE

    api.serve(*CUSTOM)
    made, writes = make()
    wait_for(lambda: made.view.world.complete)
    one, two = IPv4Network("198.51.100.0/24"), IPv4Network("203.0.113.0/24")
    numbers = made.number_cidrs([one, two])
    assert made.complete(BASE).cidrs is None  # what an earlier agent wrote stays until the policies are known
    made.set_cidrs([one])
    assert made.complete(BASE).cidrs == {one: numbers[one]}
    metadata = {"namespace": "default", "name": "k", "labels": {"kubernetes.io/service-name": "kubernetes"}}
    api.put(
        SLICES, {"metadata": metadata, "addressType": "IPv4", "endpoints": [{"addresses": ["203.0.113.9"]}]}
    )
    outside = IPv4Network("203.0.113.9/32")
    wait_for(lambda: outside in (made.complete(BASE).cidrs or {}))
    number = (made.complete(BASE).cidrs or {})[outside]
    assert made.view.world.api_servers == {outside: number}
    assert "reserved:kube-apiserver" in made.view.world.identities[number]
    wait_for(lambda: writes.count)
    made.stop()
    again, _ = make()
    assert again.number_cidrs([one])[one] == numbers[one]
    assert made.number_cidrs([IPv4Network("0.0.0.0/0")]) == {IPv4Network("0.0.0.0/0"): 2}


def test_a_pod_whose_labels_change_elsewhere_is_who_it_was_for_a_moment(api: ClusterApi, make: Make) -> None:
    """By then the policies here know of its new identity. Another pod with its address is one at once."""
    from .test_desired import BASE

    def publish(identity: int, pod: str) -> None:
        item = {"address": "10.1.2.9", "identity": identity, "namespace": "ns", "pod": pod}
        api.put(NODE_ENDPOINTS, {"metadata": {"name": "other"}, "spec": {"endpoints": [item]}})

    def remote() -> int | None:
        return (made.complete(BASE).remote or {}).get("10.1.2.9")

    def seen() -> int:
        found = made.view.world.remote.get("10.1.2.9")
        return found.identity if found else 0

    api.serve(*CUSTOM)
    made, _ = make(nodes=("other",))
    publish(300, "a")
    wait_for(lambda: remote() == 300)
    started = time.monotonic()
    publish(301, "a")
    wait_for(lambda: seen() == 301)
    before = remote()
    if time.monotonic() - started < SETTLE:
        assert before == 300
    wait_for(lambda: remote() == 301)
    assert time.monotonic() - started >= SETTLE
    publish(302, "b")
    wait_for(lambda: seen() == 302)
    assert remote() == 302


def test_identities_that_nobody_uses_go(api: ClusterApi, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_controller, "GARBAGE_INTERVAL", 0.1)
    monkeypatch.setattr(identity_choice, "GRACE", 1.0)
    monkeypatch.setattr(identity_choice, "JITTER", 0.0)
    api.serve(*CUSTOM)
    for number in (300, 301, 302):
        api.put(IDENTITIES, {"metadata": {"name": str(number)}, "spec": {"labels": {"k8s:n": str(number)}}})
    item = {"address": "10.1.2.9", "identity": 301}
    api.put(NODE_ENDPOINTS, {"metadata": {"name": "other"}, "spec": {"endpoints": [item]}})
    made, _ = make()
    wait_for(lambda: made.view.world.complete)
    made.hooks().changed((endpoint("a", 2, identity=302, labels={"k8s:n": "302"}),))
    assert api.names(IDENTITIES) == {"300", "301", "302"}
    wait_for(lambda: api.names(IDENTITIES) == {"301", "302"})
    time.sleep(1.5)
    assert api.names(IDENTITIES) == {"301", "302"}


def test_what_could_not_be_written_is_no_success(api: ClusterApi, make: Make) -> None:
    made, writes = make()
    made.apply_policies()
    writes.failures[("routes", "10.1.2.0/24")] = "unreachable"
    made.apply_policies()
    writes.failures[("endpoints4", "10.1.1.2")] = "full"
    with pytest.raises(OSError, match="full"):
        made.apply_policies()
