"""Conditions of policies: what they say, and that they are written only where they do not say it yet."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from podwire.agent import policy_status
from podwire.agent.policy_source import take
from podwire.agent.policy_status import ConditionWriter, outdated, status_patch, status_path
from podwire.agent.policy_store import Known, PolicyStore
from podwire.kube.client import KubeClient
from podwire.kube.reflector import Connection
from podwire.policy import parse_cilium, parse_kubernetes
from podwire.policy.model import Origin
from tests.unit.kube.api_server import wait_for
from tests.unit.kube.cluster_api import CILIUM_POLICIES, ClusterApi, serve

KEY = "CiliumNetworkPolicy/alpha/web"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def cnp(entity: str = "world", **status: Any) -> dict[str, Any]:
    spec = {"endpointSelector": {}, "ingress": [{"fromEntities": [entity]}]}
    metadata = {"name": "web", "namespace": "alpha", "uid": "u", "generation": 1}
    return {"kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec, **status}


def known(value: dict[str, Any]) -> Known:
    store = PolicyStore()
    store.set(KEY, take(value, kind="CiliumNetworkPolicy", parse=parse_cilium.network_policy))
    found = store.get(KEY)
    assert found is not None
    return found


def condition(status: str, reason: str = "Enforced", message: str = "") -> dict[str, Any]:
    item = {"type": "Valid", "status": status, "reason": reason, "message": message}
    return {"status": {"conditions": [{**item, "lastTransitionTime": "2020-01-01T00:00:00Z"}]}}


def test_a_condition_is_outdated_until_it_says_what_is() -> None:
    assert outdated(known(cnp()))
    assert not outdated(known(cnp(**condition("True"))))
    assert outdated(known(cnp("everyone", **condition("True"))))


def test_kubernetes_own_policies_have_no_status() -> None:
    store = PolicyStore()
    value = {"metadata": {"name": "web", "namespace": "alpha"}, "spec": {"podSelector": {}}}
    store.set("k", take(value, kind="NetworkPolicy", parse=parse_kubernetes.network_policy))
    found = store.get("k")
    assert found is not None
    assert not outdated(found)


def test_where_a_status_is_written() -> None:
    assert status_path(Origin("CiliumNetworkPolicy", "a", "b")) == (
        "/apis/cilium.io/v2/namespaces/a/ciliumnetworkpolicies/b/status"
    )
    assert status_path(Origin("CiliumClusterwideNetworkPolicy", "", "b")) == (
        "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/b/status"
    )


def test_the_time_is_that_of_the_last_change_over() -> None:
    (fresh,) = status_patch(known(cnp()), NOW)["status"]["conditions"]
    assert (fresh["status"], fresh["lastTransitionTime"]) == ("True", "2026-01-02T03:04:05Z")
    (same,) = status_patch(known(cnp(**condition("True", "Other"))), NOW)["status"]["conditions"]
    assert same["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    (other,) = status_patch(known(cnp("everyone", **condition("True"))), NOW)["status"]["conditions"]
    assert other["lastTransitionTime"] == "2026-01-02T03:04:05Z"
    assert "everyone" in other["message"]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[tuple[ClusterApi, Path]]:
    yield from serve(tmp_path)


class Agents:
    """Agents that know the object as it is stored."""

    def __init__(self, api: ClusterApi, kubeconfig: Path, count: int) -> None:
        self.api = api
        connection = Connection(partial(KubeClient, kubeconfig))
        connection.client()  # which takes a while the first time
        self.writers = [ConditionWriter(connection, lambda key: self.known()) for _ in range(count)]
        for writer in self.writers:
            writer.start()

    def known(self) -> Known | None:
        value = self.api.get(CILIUM_POLICIES, "alpha/web")
        return known(value) if value is not None else None

    def look(self) -> None:
        found = self.known()
        assert found is not None
        for writer in self.writers:
            writer.look_at({KEY: found})

    def stop(self) -> None:
        for writer in self.writers:
            writer.stop()


def test_one_of_many_writes(api: tuple[ClusterApi, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_status, "SPREAD", (0.1, 1.5))
    server, kubeconfig = api
    server.put(CILIUM_POLICIES, cnp("everyone"))
    agents = Agents(server, kubeconfig, 5)
    agents.look()
    wait_for(lambda: (found := agents.known()) and not outdated(found))
    wait_for(lambda: not any(writer._due for writer in agents.writers))
    assert 1 <= len(server.requests) <= 3
    agents.look()
    assert not any(writer._due for writer in agents.writers)
    agents.stop()


def test_an_api_that_is_away_is_asked_again(
    api: tuple[ClusterApi, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_status, "SPREAD", (0.0, 0.01))
    monkeypatch.setattr(policy_status, "RETRY", 0.2)
    server, kubeconfig = api
    server.put(CILIUM_POLICIES, cnp())
    agents = Agents(server, kubeconfig, 1)
    server.fail()
    agents.look()
    wait_for(lambda: agents.writers[0].problem)
    assert "conditions of policies: " in agents.writers[0].problem
    server.fail(failing=False)
    wait_for(lambda: agents.writers[0].written)
    assert not agents.writers[0].problem
    agents.stop()


def test_an_object_that_is_gone_is_no_problem(
    api: tuple[ClusterApi, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_status, "SPREAD", (0.05, 0.06))
    server, kubeconfig = api
    server.put(CILIUM_POLICIES, cnp())
    agents = Agents(server, kubeconfig, 1)
    agents.look()
    server.remove(CILIUM_POLICIES, "alpha/web")
    wait_for(lambda: not agents.writers[0]._due)
    assert not agents.writers[0].problem
    agents.stop()
