"""Identities by labels, numbers of prefixes, and objects of the API as they are read."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.agent import identity_objects as objects
from podwire.agent.identity_cidr import CidrNumbers, number_of
from podwire.agent.identity_objects import IdentityObject
from podwire.agent.identity_source import api_server_addresses
from podwire.agent.identity_table import IdentityTable
from podwire.agent.identity_view import RemoteEndpoint
from podwire.policy.identity import LOCAL_FIRST, LOCAL_LAST, candidate

LABELS = [{"k8s:app": name} for name in "abc"]
changes = st.lists(
    st.tuples(st.integers(250, 260), st.one_of(st.none(), st.sampled_from(LABELS))), max_size=30
)


@given(changes)
def test_a_table_knows_what_it_was_told_last(told: list[tuple[int, dict[str, str] | None]]) -> None:
    table, expected = IdentityTable(), dict[int, dict[str, str]]()
    for number, labels in told:
        table.apply([(str(number), None if labels is None else IdentityObject(number, labels))])
        if labels is None:
            expected.pop(number, None)
        elif number >= 256:
            expected[number] = labels
    assert table.labels() == expected
    assert {item.number for item in table.objects()} == expected.keys()
    for labels in LABELS:
        numbers = {number for number, known in expected.items() if known == labels}
        assert table.number_of(labels) in (numbers or {0})


def test_of_two_numbers_everybody_prefers_the_same() -> None:
    first, second = candidate(LABELS[0]), candidate(LABELS[0], 1)
    for order in ((first, second), (second, first)):
        table = IdentityTable()
        for number in order:
            table.put(IdentityObject(number, LABELS[0]))
        assert table.number_of(LABELS[0]) == first


def test_labels_are_the_same_object_until_something_changes() -> None:
    table = IdentityTable()
    table.put(IdentityObject(300, LABELS[0], "1"))
    before = table.labels()
    table.put(IdentityObject(300, LABELS[0], "2"))
    assert table.labels() is before
    table.apply([("7", None), ("x", None)])
    assert table.labels() is before
    table.remove(300)
    assert table.labels() == {}


prefixes = st.sets(
    st.tuples(st.integers(0, 3), st.integers(1, 32)).map(
        lambda item: IPv4Network((item[0] << 30, item[1]), strict=False)
    ),
    max_size=8,
)


@given(st.lists(prefixes, max_size=8))
def test_prefixes_keep_their_numbers_while_they_are_wanted(rounds: list[set[IPv4Network]]) -> None:
    numbers = CidrNumbers()
    before: dict[IPv4Network, int] = {}
    for wanted in rounds:
        numbers.set_wanted(wanted)
        now = numbers.numbers()
        assert now.keys() == wanted
        assert len(set(now.values())) == len(now)
        assert all(LOCAL_FIRST <= number <= LOCAL_LAST for number in now.values())
        assert all(now[prefix] == before[prefix] for prefix in now.keys() & before.keys())
        # A restart in between changes nothing.
        again = CidrNumbers(now)
        again.set_wanted(wanted)
        assert again.numbers() == now
        assert not numbers.set_wanted(wanted)
        before = now


def test_a_number_that_became_free_is_not_given_at_once() -> None:
    numbers = CidrNumbers()
    one, two = IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.0/24")
    numbers.set_wanted([one])
    first = numbers.numbers()[one]
    numbers.set_wanted([two])
    assert numbers.numbers()[two] != first


def test_numbers_end_at_the_end_of_their_range() -> None:
    one, two = IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.0/24")
    numbers = CidrNumbers({one: LOCAL_LAST, IPv4Network("203.0.113.0/24"): 7})
    numbers.set_wanted([one, two])
    assert numbers.numbers() == {one: LOCAL_LAST, two: LOCAL_FIRST}


def test_the_world_needs_no_number() -> None:
    numbers = CidrNumbers()
    assert not numbers.set_wanted([IPv4Network("0.0.0.0/0")])
    assert numbers.numbers() == {}


@given(prefixes, st.integers(0, 2**32 - 1))
def test_the_longest_prefix_around_says_who_an_address_is(known: set[IPv4Network], address: int) -> None:
    numbers = {prefix: index + 1000 for index, prefix in enumerate(sorted(known))}
    here = IPv4Network(address)
    around = [prefix for prefix in known if here.subnet_of(prefix)]
    expected = numbers[max(around, key=lambda prefix: prefix.prefixlen)] if around else 2
    assert number_of(numbers, here) == expected


ports = st.frozensets(
    st.tuples(st.sampled_from(["http", "dns-tcp"]), st.sampled_from([6, 17, 132]), st.integers(1, 65535)),
    max_size=3,
)


@given(
    st.lists(
        st.builds(
            RemoteEndpoint,
            st.just("n"),
            st.just("ns"),
            st.just("p"),
            st.ip_addresses(v=4).map(str),
            st.integers(1, 2**32 - 1),
            ports,
        ),
        max_size=4,
    )
)
def test_what_is_published_is_read_again(endpoints: list[RemoteEndpoint]) -> None:
    body = {
        "metadata": {"name": "n", "resourceVersion": "9"},
        "spec": {"endpoints": [objects.endpoint_body(item) for item in endpoints]},
    }
    assert objects.node_endpoints(body) == ("n", tuple(endpoints), "9")


@pytest.mark.parametrize(
    "item",
    [
        {},
        None,
        7,
        {"address": "x", "identity": 300},
        {"address": "10.1.0.2"},
        {"address": "10.1.0.2", "identity": "3"},
        {"address": "10.1.0.2", "identity": 0},
        {"address": "10.1.0.2", "identity": 3, "ports": 5},
    ],
)
def test_an_endpoint_that_makes_no_sense_is_none(item: Any) -> None:
    good = {"address": "10.1.0.3", "identity": 300}
    read = objects.node_endpoints({"metadata": {"name": "n"}, "spec": {"endpoints": [item, good]}})
    assert [found.address for found in read.endpoints] == ["10.1.0.3"]


def test_a_pod_is_read() -> None:
    value = {
        "metadata": {
            "namespace": "ns", "name": "p", "uid": "u", "labels": {"app": "web"},
            "annotations": {"kubernetes.io/config.hash": "h"},
        },
        "spec": {
            "serviceAccountName": "robot",
            "containers": [
                {"ports": [{"name": "HTTP", "containerPort": 80}, {"containerPort": 81}]},
                {"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
                {},
            ],
            "initContainers": [
                {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]},
                {"ports": [{"name": "gone", "containerPort": 10}]},
            ],
        },
        "status": {"phase": "Running"},
    }  # fmt: skip
    found = objects.pod(value)
    assert found.uids == {"u", "h"}
    assert found.named_ports == {("http", 6, 80), ("dns", 17, 53), ("side", 6, 9)}
    assert (found.service_account, found.host_network, found.finished) == ("robot", False, False)


@pytest.mark.parametrize("value", [{}, {"metadata": None, "spec": None}, {"spec": {"containers": None}}])
def test_objects_with_nothing_in_them_are_read(value: dict[str, Any]) -> None:
    assert objects.pod(value).labels == {}
    assert objects.namespace(value) == {}
    assert objects.identity(value).number == 0
    assert objects.node_endpoints(value).endpoints == ()
    assert api_server_addresses(value) == frozenset()


@pytest.mark.parametrize(("name", "number"), [("300", 300), ("x", 0), ("", 0), ("²", 0), ("-3", 0)])
def test_the_name_of_an_identity_is_its_number(name: str, number: int) -> None:
    assert objects.identity({"metadata": {"name": name}}).number == number


def test_api_servers_answer_at_every_address_of_the_service() -> None:
    value = {
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["192.0.2.1"]},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": False}},
        ],
    }
    assert api_server_addresses(value) == {"192.0.2.1", "192.0.2.2"}
    assert api_server_addresses({**value, "addressType": "IPv6"}) == frozenset()
