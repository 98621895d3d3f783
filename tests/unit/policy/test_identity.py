"""Numbers of identities."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.policy import identity

from .test_labels import LABELS


@pytest.mark.parametrize(
    ("number", "labels"),
    [
        (0, {"reserved:unknown"}),
        (1, {"reserved:host"}),
        (2, {"reserved:world"}),
        (3, {"reserved:unmanaged"}),
        (4, {"reserved:health"}),
        (5, {"reserved:init"}),
        (6, {"reserved:remote-node"}),
        (7, {"reserved:kube-apiserver", "reserved:remote-node"}),
        (8, {"reserved:ingress"}),
    ],
)
def test_reserved_numbers_are_ciliums(number: int, labels: set[str]) -> None:
    assert set(identity.reserved_labels(number)) == labels
    assert set(identity.reserved_labels(number).values()) == {""}
    assert identity.is_reserved(number)


def test_host_that_runs_the_api_server_has_both_labels() -> None:
    labels = identity.reserved_labels(identity.HOST, api_server_here=True)
    assert set(labels) == {"reserved:host", "reserved:kube-apiserver"}


@pytest.mark.parametrize(
    ("prefix", "labels"),
    [
        ("192.0.2.0/24", {"cidr:192.0.2.0/24", "reserved:world"}),
        ("192.0.2.10/32", {"cidr:192.0.2.10/32", "reserved:world"}),
        ("0.0.0.0/0", {"reserved:world"}),
    ],
)
def test_prefix_is_part_of_the_world(prefix: str, labels: set[str]) -> None:
    assert set(identity.cidr_labels(IPv4Network(prefix))) == labels


def test_api_server_outside_the_cluster() -> None:
    labels = identity.cidr_labels(IPv4Network("192.0.2.10/32"), api_server=True)
    assert set(labels) == {"cidr:192.0.2.10/32", "reserved:kube-apiserver", "reserved:world"}


@given(LABELS, st.integers(0, 50))
def test_number_is_one_of_the_clusters(labels: dict[str, str], attempt: int) -> None:
    number = identity.candidate(labels, attempt)
    assert identity.is_label_identity(number)
    assert identity.in_cluster(number)
    assert not identity.is_reserved(number)


@given(LABELS)
def test_candidates_are_distinct_and_begin_with_the_first(labels: dict[str, str]) -> None:
    tried = list(itertools.islice(identity.candidates(labels), 20))
    assert tried[0] == identity.candidate(labels)
    assert len(set(tried)) == len(tried) == 20


def test_number_is_the_same_in_every_version() -> None:
    """Objects in the API outlive releases: another way to count would renumber running clusters."""
    assert identity.candidate({"k8s:app": "web", "k8s:io.kubernetes.pod.namespace": "alpha"}) == 17987
    assert identity.candidate({"k8s:io.kubernetes.pod.namespace": "alpha", "k8s:app": "web"}) == 17987


def test_scopes_do_not_overlap() -> None:
    scopes = (identity.is_reserved, identity.is_label_identity, identity.is_local, identity.is_class)
    for number in (0, 1, 8, 9, 255, 256, 65535, 65536, 0x01000001, 0x01FFFFFF, 0x02000000, 0x03000001):
        assert sum(scope(number) for scope in scopes) <= 1


@pytest.mark.parametrize(
    ("number", "inside"), [(0, False), (1, True), (2, False), (6, True), (300, True), (0x01000001, False)]
)
def test_what_is_in_the_cluster(number: int, inside: bool) -> None:
    assert identity.in_cluster(number) is inside
