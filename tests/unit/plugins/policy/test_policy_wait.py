"""When a policy counts as enforced everywhere, and what is said when it is not."""

from __future__ import annotations

import json

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import KubectlError
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_objects import key_of
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_wait import (
    Enforcement,
    NodeState,
    node_states,
    refused,
    verdict_on,
)

KNP = "networkpolicies"
WANTED = {KNP: 20}


def report(name, version, problems=()):
    return {
        "metadata": {"name": name},
        "status": {"observed": {KNP: str(version)}, "problems": list(problems)},
    }


def policy(kind="CiliumNetworkPolicy", generation=1, conditions=()):
    return {
        "kind": kind,
        "metadata": {"namespace": "default", "name": "rule1", "generation": generation},
        "status": {"conditions": list(conditions)},
    }


def valid(status="True", message="", generation=None):
    found = {"type": "Valid", "status": status, "message": message}
    return found if generation is None else {**found, "observedGeneration": generation}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        pytest.param(NodeState("n", {KNP: 20}), "", id="there"),
        pytest.param(NodeState("n", {KNP: 21, "other": 1}), "", id="beyond"),
        pytest.param(NodeState("n", {KNP: 19}), "n: networkpolicies at 19, wanted 20", id="behind"),
        pytest.param(NodeState("n", {}), "n: networkpolicies at none, wanted 20", id="nothing yet"),
        pytest.param(
            NodeState("n", {KNP: 19}, ("the map is full",)),
            "n: networkpolicies at 19, wanted 20 (the map is full)",
            id="behind, with a reason",
        ),
    ],
)
def test_whether_a_node_is_behind(state, said):
    assert state.behind(WANTED) == said


def test_a_node_without_a_report_is_behind():
    first, second = node_states(["n2", "n1"], [report("n1", 20), report("gone", 1)])
    assert (first.name, first.behind(WANTED)) == ("n1", "")
    assert "nothing is reported of it" in second.behind(WANTED)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (policy(), (None, "")),
        (policy(conditions=[valid()]), (True, "no reason given")),
        (policy(conditions=[valid("False", "both L3 members")]), (False, "both L3 members")),
        (policy(generation=2, conditions=[valid("False", "old", 1)]), (None, "")),
        (policy(generation=2, conditions=[valid("False", "new", 2)]), (False, "new")),
    ],
)
def test_what_a_status_says_about_this_generation(item, expected):
    assert verdict_on(item) == expected


def test_a_policy_of_kubernetes_is_refused_in_a_nodes_problems():
    item = policy("NetworkPolicy")
    mine, other = "NetworkPolicy/default/rule1: endPort below port", "NetworkPolicy/default/rule10: x"
    assert refused([item], [NodeState("n", {}, (mine, other))]) == [mine]


class Cluster:
    """kubectl whose reports follow a list, one per question."""

    def __init__(self, *rounds, items=()):
        self.rounds = list(rounds)
        self.asked = 0
        self.items = list(items)

    def run(self, *words):
        if words[:2] == ("get", "nodes"):
            return "node/n1\nnode/n2\n"
        current = self.rounds[min(self.asked, len(self.rounds) - 1)]
        self.asked += 1
        if isinstance(current, Exception):
            raise current
        return json.dumps({"items": current})

    def read(self, keys):
        return [item for item in self.items if key_of(item) in list(keys)]


def wait(cluster, timeout=5.0, versions=WANTED):
    keys = [key_of(item) for item in cluster.items]
    return Enforcement(cluster, timeout).wait(versions, keys, cluster.read)


def test_waits_for_the_last_node():
    first = report("n1", 20)
    cluster = Cluster([first], [first, report("n2", 19)], [first, report("n2", 25)])
    waited = wait(cluster)
    assert cluster.asked == 3
    assert waited.nodes == {"n1": {KNP: 20}, "n2": {KNP: 25}}


def test_names_the_nodes_that_lag_and_why():
    cluster = Cluster([report("n1", 20), report("n2", 3, ["cannot write maps"])])
    with pytest.raises(PodwireError) as caught:
        wait(cluster, timeout=0)
    assert caught.value.details["lagging"] == ["n2: networkpolicies at 3, wanted 20 (cannot write maps)"]


def test_an_invalid_policy_is_told_at_once_with_its_reason():
    bad = policy(conditions=[valid("False", "spec.ingress[0]: toPorts and icmps", 1)])
    with pytest.raises(PodwireError, match=r"CiliumNetworkPolicy/default/rule1: spec.ingress\[0\]"):
        wait(Cluster([report("n1", 1)], items=[bad]), timeout=60)


def test_a_policy_that_no_agent_has_judged_is_not_relied_on():
    done = [report("n1", 20), report("n2", 20)]
    with pytest.raises(PodwireError, match="no agent has said yet whether it is valid"):
        wait(Cluster(done, items=[policy()]), timeout=0)
    assert wait(Cluster(done, items=[policy(conditions=[valid()])])).nodes
    assert wait(Cluster(done, items=[policy("NetworkPolicy")])).nodes, "this kind has no status"


def test_a_cluster_whose_nodes_do_not_report_is_named():
    error = KubectlError('error: the server doesn\'t have a resource type "nodeendpoints"')
    with pytest.raises(PodwireError, match="do not report what they enforce"):
        wait(Cluster(error))
