"""Applying and deleting policies through a kubectl that keeps its objects in a file, as the API server
would."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import policy_objects as objects
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_cluster import Policies


def knp(name="a", **spec):
    metadata = {"name": name}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def cnp(name="a", **spec):
    return {**knp(name, **spec), "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}


def actions(change):
    return {str(step.key): step.action for step in change.steps}


def test_creates_changes_and_then_leaves_alone(server):
    first = server.present(knp("a"), cnp("b"))
    assert set(actions(first).values()) == {objects.CREATE}
    assert first.versions == {"networkpolicies": 11, "ciliumnetworkpolicies": 12}
    second = server.present(knp("a", port=1), cnp("b"))
    assert actions(second) == {
        "NetworkPolicy/default/a": objects.REPLACE,
        "CiliumNetworkPolicy/default/b": objects.KEEP,
    }
    # What is unchanged must be enforced, too, to be relied on.
    assert second.versions == {"networkpolicies": 13, "ciliumnetworkpolicies": 12}
    third = server.present(knp("a", port=1), cnp("b"))
    assert not third.changed
    assert server.state["version"] == 13


def test_check_mode_tells_and_does_nothing(server):
    change = server.present(knp("a"), check_mode=True)
    assert change.changed
    assert '"defaulted": true' in change.steps[0].diff()["after"], "as the server would store it"
    assert server.names == []


def test_one_that_is_refused_keeps_all_from_being_applied(server):
    with pytest.raises(PodwireError, match=r"spec\.refused"):
        server.present(knp("good"), knp("bad", refused=True))
    assert server.names == []


def test_a_misspelt_field_is_an_error_and_no_wider_policy(server):
    with pytest.raises(PodwireError, match=r"Policy/default/a: the API does not know spec\.misspelt"):
        server.present(cnp("a", misspelt=[{"x": 1}]))
    assert server.names == []


def test_a_change_that_meets_an_agents_status_is_made_again(server):
    server.present(cnp("a"))
    server.set(conflicts=2)
    change = server.present(cnp("a", port=1), cnp("new"))
    assert change.changed
    assert server.state["objects"]["CiliumNetworkPolicy/default/a"]["spec"]["port"] == 1
    server.set(conflicts=99)
    with pytest.raises(PodwireError, match="Conflict"):
        server.present(cnp("a", port=2))


def test_absent_deletes_and_knows_the_version_of_the_deletion(server):
    server.present(knp("a"), knp("b"))
    change = server.absent(knp("a"), knp("missing"))
    assert actions(change) == {"NetworkPolicy/default/a": objects.DELETE}
    # Not the version of the cluster, which other kinds move on: no agent would ever reach that.
    assert change.versions == {"networkpolicies": 13}
    assert not server.absent(knp("a")).changed
    assert server.names == ["NetworkPolicy/default/b"]


def test_purge_deletes_what_left_the_set_and_nothing_else(server):
    server.present(knp("foreign"))
    server.present(knp("a"), cnp("b"), policy_set="prod")
    server.present(knp("c"), policy_set="test")
    change = server.present(knp("a"), policy_set="prod", purge=True)
    assert actions(change) == {
        "NetworkPolicy/default/a": objects.KEEP,
        "CiliumNetworkPolicy/default/b": objects.DELETE,
    }
    assert server.names == [f"NetworkPolicy/default/{name}" for name in ("a", "c", "foreign")]
    server.absent(policy_set="test", purge=True)
    assert server.names == [f"NetworkPolicy/default/{name}" for name in ("a", "foreign")]


def test_before_the_kinds_are_known_check_mode_shows_what_would_come(server):
    server.set(unknown="CiliumNetworkPolicy")
    change = server.present(cnp("a"), check_mode=True)
    assert actions(change) == {"CiliumNetworkPolicy/default/a": objects.CREATE}
    assert any("no matches for kind" in text for text in server.warnings)
    with pytest.raises(PodwireError, match="does not know this kind of policy"):
        server.present(cnp("a"))


def test_a_set_is_purged_where_only_some_kinds_are_known(server):
    server.present(knp("a"), policy_set="prod")
    server.set(unknown="CiliumNetworkPolicy")
    assert actions(server.absent(policy_set="prod", purge=True)) == {
        "NetworkPolicy/default/a": objects.DELETE
    }


def test_check_mode_works_before_there_is_a_cluster(tmp_path):
    policies = Policies(Kubectl(Layout(tmp_path)), check_mode=True, warn=print)
    change = policies.present(objects.complete([cnp("a")], "default"), "", False)
    assert change.changed
    assert not policies.absent(objects.complete([cnp("a")], "default"), "s", True).changed
