"""The choice of a lab's network."""

import pytest

from lab.errors import LabError
from lab.underlay import free_index


def test_first_lab_gets_the_first_network():
    assert free_index([], []) == 1


def test_networks_of_other_labs_are_left_alone():
    assert free_index(["pw1-br", "pw2-cp1", "eth0"], []) == 3


@pytest.mark.parametrize("route", ["172.30.1.0/24", "172.30.1.7/32", "172.30.0.0/23"])
def test_networks_that_something_routes_are_left_alone(route):
    assert free_index([], [route]) == 2


def test_other_routes_and_the_default_do_not_matter():
    assert free_index(["pw10-br"], ["192.0.2.0/24", "0.0.0.0/0"]) == 1


def test_no_network_left_says_what_to_do():
    with pytest.raises(LabError, match="no free network") as caught:
        free_index([], ["172.30.0.0/16"])
    assert "make down" in caught.value.hint
