"""What of a policy counts, what is refused before anything is asked, and what has to happen."""

from __future__ import annotations

import json

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import policy_objects as objects
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_objects import Key, key_of


def cnp(name="rule1", spec=None, **metadata):
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, **metadata},
        "spec": spec or {"endpointSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]},
    }


def stored(item, version="7", **spec):
    """An object as the API server keeps it."""
    metadata = {
        "namespace": "default",
        "uid": "u",
        "resourceVersion": version,
        "generation": 3,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "someone"}],
        **item["metadata"],
    }
    return {**item, "metadata": metadata, "spec": {**item["spec"], **spec}, "status": {"conditions": []}}


def test_lists_and_empty_documents_are_taken_apart():
    listed = {"apiVersion": "v1", "kind": "List", "items": [cnp("b")]}
    kinds = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicyList", "items": [cnp("c")]}
    found = objects.flatten([None, cnp("a"), listed, [kinds, {}]])
    assert [item["metadata"]["name"] for item in found] == ["a", "b", "c"]


def test_text_is_no_object():
    with pytest.raises(PodwireError, match="'kind: x' is no object"):
        objects.flatten(["kind: x"])


def test_namespaces_and_the_label_of_the_set_are_filled_in():
    given = cnp(labels={"team": "red"})
    (whole,) = objects.complete([given], "shop", "prod")
    assert key_of(whole) == Key("CiliumNetworkPolicy", "shop", "rule1")
    assert whole["metadata"]["labels"] == {"team": "red", "podwire.io/policy-set": "prod"}
    assert "namespace" not in given["metadata"], "the caller's object is left alone"
    (clusterwide,) = objects.complete([{**cnp(), "kind": "CiliumClusterwideNetworkPolicy"}], "shop")
    assert str(key_of(clusterwide)) == "CiliumClusterwideNetworkPolicy/rule1"


@pytest.mark.parametrize(
    ("items", "said"),
    [
        pytest.param([{**cnp(), "kind": "ConfigMap"}], "ConfigMap rule1 of cilium.io/v2 is no", id="kind"),
        pytest.param([{**cnp(), "apiVersion": "v1"}], "This applies NetworkPolicy of networking", id="group"),
        pytest.param([{"kind": "NetworkPolicy"}], "no apiVersion is no network policy", id="no version"),
        pytest.param([{**cnp(), "metadata": {}}], "has no metadata.name", id="no name"),
        pytest.param([{**cnp(), "metadata": None}], "has no metadata.name", id="no metadata"),
        pytest.param([cnp(), cnp()], "default/rule1 is given twice", id="twice"),
        pytest.param(
            [{**cnp(namespace="x"), "kind": "CiliumClusterwideNetworkPolicy"}],
            "has the namespace x, but this kind has none",
            id="namespace of what has none",
        ),
    ],
)
def test_what_is_no_policy_is_refused(items, said):
    with pytest.raises(PodwireError) as caught:
        objects.complete(items, "default")
    assert said in caught.value.result()["msg"]


@pytest.mark.parametrize("name", ["no spaces", "-a", "a" * 64])
def test_a_set_is_named_by_what_can_be_a_label(name):
    with pytest.raises(PodwireError, match="cannot name a set"):
        objects.complete([cnp()], "default", name)


def plan(wanted, live, checked):
    by_key = {key_of(item): item for item in live}
    return objects.steps_present(wanted, by_key, {key_of(item): item for item in checked})


def test_new_objects_are_created():
    (wanted,) = objects.complete([cnp()], "default")
    (step,) = plan([wanted], [], [stored(wanted)])
    assert step.action == objects.CREATE
    assert step.diff()["before"] == ""
    assert json.loads(step.diff()["after"])["spec"] == wanted["spec"]


def test_what_the_server_keeps_for_itself_is_no_difference():
    (wanted,) = objects.complete([cnp()], "default")
    live = stored(wanted, version="7", extra="a default")
    (step,) = plan([wanted], [live], [stored(wanted, version="7", extra="a default")])
    assert step.action == objects.KEEP


def test_rules_that_are_not_wanted_any_more_go():
    (wanted,) = objects.complete([cnp()], "default")
    live = stored(wanted, egress=[{}])
    new = objects.replacement(wanted, live)
    assert new["spec"] == wanted["spec"]
    (step,) = plan([wanted], [live], [stored(wanted)])
    assert step.action == objects.REPLACE
    assert '"egress"' in step.diff()["before"]
    assert '"egress"' not in step.diff()["after"]


def test_what_others_have_added_to_an_object_stays():
    (wanted,) = objects.complete([cnp(labels={"a": "new"})], "default")
    live = stored(
        cnp(
            labels={"a": "old", "theirs": "1"},
            annotations={"note": "x", objects.LAST_APPLIED: "{}"},
            finalizers=["f"],
        )
    )
    metadata = objects.replacement(wanted, live)["metadata"]
    assert metadata["labels"] == {"a": "new", "theirs": "1"}
    assert metadata["annotations"]["note"] == "x"
    assert metadata["finalizers"] == ["f"]
    # kubectl apply compares with what it believes was applied last.
    assert json.loads(metadata["annotations"][objects.LAST_APPLIED])["spec"] == wanted["spec"]
    assert objects.essence(live)["metadata"]["annotations"] == {"note": "x"}


@pytest.mark.parametrize(
    ("wanted", "kept", "lost"),
    [
        (
            {"spec": {"ingress": [{"fromEndpoint": [{}]}]}},
            {"spec": {"ingress": [{}]}},
            ["spec.ingress[0].fromEndpoint"],
        ),
        ({"spec": {"ingress": [{}], "egress": []}}, {"spec": {"ingress": [{}]}}, []),
        ({"spec": {"a": 1}}, {"spec": {"a": 1, "default": True}}, []),
        ({"specs": [{"b": 1}, {"c": "x"}]}, {"specs": [{"b": 1}, {}]}, ["specs[1].c"]),
        ({"spec": None}, {"spec": None}, []),
    ],
)
def test_fields_that_the_server_drops_are_noticed(wanted, kept, lost):
    assert objects.lost_fields(wanted, kept) == lost
