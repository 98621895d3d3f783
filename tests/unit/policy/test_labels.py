"""Which labels make an identity, and how they are written."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.policy import labels as security

NAMES = st.text(string.ascii_lowercase + string.digits + "./-_", min_size=1, max_size=20)
KEYS = st.builds(security.key, st.sampled_from(security.SOURCES), NAMES)
VALUES = st.text(string.ascii_letters + string.digits + "-_.", max_size=20)
LABELS = st.dictionaries(KEYS, VALUES, max_size=6)


@pytest.mark.parametrize(
    "name",
    [
        "app",
        "org",
        "app.kubernetes.io/name",
        "example.com/team",
        "node.example.com/x",
        "x.kubernetes.io/kept",
        "helm.sh/chart",
    ],
)
def test_label_of_a_user_is_kept(name: str) -> None:
    assert security.pod_labels({name: "v"}, "alpha")[f"k8s:{name}"] == "v"


@pytest.mark.parametrize(
    "name",
    [
        "io.kubernetes.container.name",
        "kubernetes.io/hostname",
        "beta.kubernetes.io/arch",
        "node.beta.kubernetes.io/x",
        "k8s.io/x",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/controller-uid",
        "controller-uid",
        "pod-template-generation",
        "pod-template-hash",
        "controller-revision-hash",
        "annotation.x",
        "etcd_node",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
    ],
)
def test_label_that_changes_with_every_pod_is_left_out(name: str) -> None:
    assert f"k8s:{name}" not in security.pod_labels({name: "v"}, "alpha")
    assert not security.usable_in_selector(f"k8s:{name}")
    assert not security.usable_in_selector(f"any:{name}")


def test_what_derives_from_a_pods_surroundings_is_added() -> None:
    assert security.pod_labels({"app": "web"}, "alpha", {"team": "red"}, "robot") == {
        "k8s:app": "web",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "alpha",
        "k8s:io.cilium.k8s.namespace.labels.team": "red",
        "k8s:io.cilium.k8s.policy.cluster": "default",
        "k8s:io.cilium.k8s.policy.serviceaccount": "robot",
        "k8s:io.kubernetes.pod.namespace": "alpha",
    }


def test_pod_cannot_forge_its_surroundings() -> None:
    plain = security.pod_labels({}, "alpha", {"team": "red"})
    forged = {
        "io.kubernetes.pod.namespace": "beta",
        "io.cilium.k8s.policy.cluster": "other",
        "io.cilium.k8s.policy.serviceaccount": "admin",
        "io.cilium.k8s.namespace.labels.team": "blue",
        "io.cilium.k8s.namespace.labels.more": "x",
    }
    assert security.pod_labels(forged, "alpha", {"team": "red"}) == plain


def test_namespace_cannot_have_the_name_of_another() -> None:
    labels = security.pod_labels({}, "alpha", {security.METADATA_NAME: "beta"})
    assert labels["k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"] == "alpha"


def test_keys_that_are_added_can_be_selected() -> None:
    for full in security.pod_labels({"app": "web"}, "alpha", {"kubernetes.io/x": "y"}):
        assert security.usable_in_selector(full)
    assert security.usable_in_selector("reserved:host")


@pytest.mark.parametrize(
    ("written", "full"),
    [("app", "any:app"), ("k8s:app", "k8s:app"), ("any:app", "any:app"), ("reserved:host", "reserved:host")],
)
def test_selector_key_without_source_means_any(written: str, full: str) -> None:
    assert security.selector_key(written) == full


def test_any_stands_for_every_source() -> None:
    assert "k8s:app" in security.places("any:app")
    assert "reserved:app" in security.places("any:app")
    assert security.places("k8s:app") == ("k8s:app",)


@given(LABELS)
def test_canonical_text_can_be_read_back(labels: dict[str, str]) -> None:
    assert security.parse(security.text(labels)) == labels


@given(LABELS, st.randoms())
def test_canonical_text_knows_no_order(labels: dict[str, str], shuffle) -> None:
    items = list(labels.items())
    shuffle.shuffle(items)
    assert security.text(dict(items)) == security.text(labels)


@given(LABELS, LABELS)
def test_different_labels_have_different_texts(one: dict[str, str], other: dict[str, str]) -> None:
    assert (security.text(one) == security.text(other)) == (one == other)


@pytest.mark.parametrize("text", ["k8s:b=1;k8s:a=2;", "k8s:a=1", ";;", "k8s:a=1;k8s:a=2;"])
def test_text_that_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="canonical"):
        security.parse(text)


def test_people_write_lists() -> None:
    assert security.parse_list("app=web, k8s:team=red,reserved:host") == {
        "k8s:app": "web",
        "k8s:team": "red",
        "reserved:host": "",
    }
    assert security.parse_list("") == {}


@pytest.mark.parametrize("written", ["=web", "k8s:=x"])
def test_list_without_a_key_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="key=value"):
        security.parse_list(written)
