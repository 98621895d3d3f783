"""Names, addresses and numbers of labs."""

import ipaddress

import pytest

from lab.config import Lab, check_name, host_number, mac_address, node_names, parse_count, state_directory
from lab.errors import LabError


def test_addresses_of_a_lab_lie_in_its_own_subnet_and_differ():
    lab = Lab("second", 7, node_names(5))
    addresses = [lab.gateway, *(lab.address(member) for member in lab.members)]
    assert addresses[:4] == ["172.30.7.1", "172.30.7.11", "172.30.7.21", "172.30.7.22"]
    assert lab.address("world") == "172.30.7.2"
    assert len(set(addresses)) == 7
    assert all(ipaddress.ip_address(address) in lab.subnet for address in addresses)


def test_two_labs_share_no_link_container_or_state():
    first, second = Lab("a", 1, node_names(3)), Lab("b", 2, node_names(3))
    for name in ("bridge", "state", "subnet"):
        assert getattr(first, name) != getattr(second, name)
    assert first.link("cp1") != second.link("cp1")
    assert first.container("cp1") != second.container("cp1")
    assert mac_address(1, 11) != mac_address(2, 11)


def test_link_names_fit_the_kernel():
    lab = Lab("x" * 20, 254, node_names(9))
    assert all(len(name) <= 15 for name in [lab.bridge, *(lab.link(member) for member in lab.members)])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_one_control_plane_and_the_rest_workers(count):
    lab = Lab("a", 1, node_names(count))
    assert len(lab.nodes) == count
    assert lab.control_plane == ("cp1",)
    assert len(lab.workers) == count - 1


@pytest.mark.parametrize("count", [0, -1, 10])
def test_impossible_numbers_of_nodes_are_refused(count):
    with pytest.raises(LabError, match="not possible") as caught:
        node_names(count)
    assert "NODES" in caught.value.hint


@pytest.mark.parametrize(("text", "expected"), [("", None), (None, None), ("5", 5)])
def test_count_from_the_environment(text, expected):
    assert parse_count(text) == expected


@pytest.mark.parametrize("text", ["three", "-1", "1.5"])
def test_count_that_is_no_number_is_named(text):
    with pytest.raises(LabError, match=text):
        parse_count(text)


@pytest.mark.parametrize("name", ["a", "ci", "second-lab", "0x", "a" * 20])
def test_good_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a/b", "..", "a" * 21, "a\n", "ä"])
def test_bad_names_are_refused(name):
    with pytest.raises(LabError, match="cannot name a lab"):
        check_name(name)


def test_default_lab_and_named_labs_have_ignored_state_directories():
    assert state_directory("podwire").name == ".lab"
    assert state_directory("second").name == ".lab-second"


@pytest.mark.parametrize("member", ["cp", "node1", "worker1x", ""])
def test_strangers_have_no_address(member):
    with pytest.raises(ValueError, match="not a lab node"):
        host_number(member)
