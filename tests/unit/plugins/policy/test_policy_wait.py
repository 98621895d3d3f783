"""When a policy counts as enforced everywhere, and what is said when it is not."""

from __future__ import annotations

import json

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import KubectlError
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_objects import Key
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_wait import (
    Enforcement,
    NodeState,
    node_states,
    refused,
)

KNP = "networkpolicies"
WANTED = {KNP: 20}


def report(name, version, problems=()):
    return {
        "metadata": {"name": name},
        "status": {"observed": {KNP: str(version)}, "problems": list(problems)},
    }


RULE = Key("CiliumNetworkPolicy", "default", "rule1")


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


def test_only_what_is_said_of_an_object_itself_counts_against_it():
    mine = "CiliumNetworkPolicy/default/rule1: toPorts and icmps in spec.ingress[0]"
    other = "CiliumNetworkPolicy/default/rule10: x"
    assert refused([RULE], [NodeState("n", {}, (mine, other)), NodeState("m", {}, (mine,))]) == [mine]


class Cluster:
    """kubectl whose reports follow a list, one per question."""

    def __init__(self, *rounds):
        self.rounds = list(rounds)
        self.asked = 0

    def run(self, *words):
        if words[:2] == ("get", "nodes"):
            return "node/n1\nnode/n2\n"
        current = self.rounds[min(self.asked, len(self.rounds) - 1)]
        self.asked += 1
        if isinstance(current, Exception):
            raise current
        return json.dumps({"items": current})


def wait(cluster, timeout=5.0):
    return Enforcement(cluster, timeout).wait(WANTED, [RULE])


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
    said = "CiliumNetworkPolicy/default/rule1: toPorts and icmps exclude each other"
    with pytest.raises(PodwireError, match=r"not valid, so that nothing has changed: Cilium.*exclude"):
        wait(Cluster([report("n1", 20, [said])]), timeout=60)
    # A node that lags speaks of the version before.
    before, after = report("n1", 19, [said]), report("n1", 20)
    assert wait(Cluster([before], [after, report("n2", 20)])).problems == []


def test_other_problems_of_nodes_are_passed_on():
    full = "shop/web is closed: 70000 entries do not fit"
    waited = wait(Cluster([report("n1", 20, [full]), report("n2", 20)]))
    assert waited.problems == [f"n1: {full}"]


def test_a_cluster_whose_nodes_do_not_report_is_named():
    error = KubectlError('error: the server doesn\'t have a resource type "nodeendpoints"')
    with pytest.raises(PodwireError, match="do not report what they enforce"):
        wait(Cluster(error))
