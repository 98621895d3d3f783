"""What rules can mean, and what differs after a change."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from podwire.policy.model import Cidr, Endpoints, Entity, Service
from podwire.policy.selectors import from_labels
from podwire.policy.world import ServiceView, World

WEB = {"k8s:app": "web", "k8s:io.kubernetes.pod.namespace": "alpha"}
WEBS = Endpoints(from_labels({"k8s:app": "web"}))
TCP = 6


def test_an_identity_that_takes_another_ones_place_is_seen() -> None:
    world = World({300: WEB})
    webs = world.selection(WEBS)
    world.remove_identity(300)
    world.set_identity(301, WEB)
    assert world.refresh().selections == {webs}
    assert list(world.numbers(webs.bits)) == [301]
    # The slot of the first one is free now, and gets used.
    world.set_identity(302, WEB)
    assert world.refresh().selections == {webs}
    assert sorted(world.numbers(webs.bits)) == [301, 302]


def test_an_identity_that_goes_and_comes_back_unchanged_is_no_change() -> None:
    world = World({300: WEB})
    webs = world.selection(WEBS)
    world.remove_identity(300)
    world.set_identity(300, dict(WEB))
    assert not world.refresh().selections
    assert list(world.numbers(webs.bits)) == [300]


def test_named_ports_may_be_known_before_their_identity() -> None:
    world = World(named_ports={300: frozenset({("http", TCP, 80)})})
    assert world.named("http", TCP) == {}
    world.set_identity(300, WEB)
    assert world.refresh().names == {("http", TCP)}
    assert [list(world.numbers(bits)) for bits in world.named("http", TCP).values()] == [[300]]
    world.remove_identity(300)
    assert world.refresh().names == {("http", TCP)}
    assert world.named("http", TCP) == {}


def test_a_reserved_identity_gets_its_own_labels_back() -> None:
    world = World()
    api = world.selection(Entity("kube-apiserver"))
    assert list(world.numbers(api.bits)) == [7]
    world.set_identity(1, {"reserved:host": "", "reserved:kube-apiserver": ""})
    world.refresh()
    assert sorted(world.numbers(api.bits)) == [1, 7]
    world.remove_identity(1)
    world.refresh()
    assert list(world.numbers(api.bits)) == [7]
    assert world.labels(1) == {"reserved:host": ""}


def test_the_world_is_every_prefix_and_the_rest() -> None:
    inner, outer = IPv4Network("192.0.2.0/28"), IPv4Network("192.0.2.0/24")
    world = World(cidrs={inner: 0x01000001, outer: 0x01000002})

    def meant(prefix: str, *excepted: str) -> list[int]:
        cidr = Cidr(IPv4Network(prefix), tuple(IPv4Network(one) for one in excepted))
        return sorted(world.numbers(world.selection(cidr).bits))

    assert meant("0.0.0.0/0") == [2, 0x01000001, 0x01000002]
    assert sorted(world.numbers(world.selection(Entity("world")).bits)) == meant("0.0.0.0/0")
    assert meant("0.0.0.0/0", "192.0.2.0/24") == [2]
    assert meant("192.0.2.0/24", "192.0.2.0/28") == [0x01000002]
    assert meant("192.0.2.0/24", "192.0.0.0/16") == []
    assert meant("192.0.2.0/28") == [0x01000001]
    assert meant("192.0.2.0/26") == [0x01000001]


def test_a_prefix_has_one_identity() -> None:
    prefix, cidr = IPv4Network("192.0.2.0/24"), Cidr(IPv4Network("192.0.2.0/24"))
    world = World(cidrs={prefix: 0x01000001})
    selection = world.selection(cidr)
    world.set_cidr(prefix, 0x01000002)
    assert world.refresh().selections == {selection}
    assert list(world.numbers(selection.bits)) == [0x01000002]
    assert world.labels(0x01000001) is None


@pytest.mark.parametrize("number", [0, 0x03000000, 0x03000001, 0x03FFFFFF])
def test_numbers_that_mean_something_else_are_no_identities(number: int) -> None:
    with pytest.raises(ValueError, match="policy maps use it otherwise"):
        World().set_identity(number, WEB)


def test_the_world_has_a_number_already() -> None:
    with pytest.raises(ValueError, match="identity 2 is"):
        World().set_cidr(IPv4Network("0.0.0.0/0"), 0x01000001)


def test_entities_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="no entity 'moon'"):
        World().selection(Entity("moon"))


def test_services_that_change_their_selector_mean_others() -> None:
    world = World({300: WEB}, services=[ServiceView("alpha", "web", {}, {"app": "web"})])
    selection = world.selection(Service("alpha", "web"))
    assert list(world.numbers(selection.bits)) == [300]
    world.set_service(ServiceView("alpha", "web", {}, {"app": "cli"}))
    assert world.refresh().selections == {selection}
    assert list(world.numbers(selection.bits)) == []
    world.remove_service("alpha", "web")
    assert not world.refresh().selections
