"""Which address pods' packets leave a device with: the one that the kernel would speak from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.agent.masquerade import masquerade_addresses
from podwire.net.values import Address4, DefaultRoute4

NODE_IP = "192.0.2.1"
FIRST = Address4(2, NODE_IP, 24)
A = Address4(3, "198.18.0.1", 24)
B = Address4(3, "198.18.7.1", 24)
B2 = Address4(3, "198.18.7.2", 24, secondary=True)
LOCAL = Address4(3, "198.19.0.1", 24, universe=False)


@pytest.mark.parametrize(
    ("addresses", "routes", "chosen"),
    [
        pytest.param([FIRST], [DefaultRoute4(2, "192.0.2.254")], {}, id="one-device"),
        pytest.param([Address4(2, "192.0.2.99", 24), FIRST], [], {}, id="the-nodes-own-address-wins"),
        pytest.param(
            [Address4(2, "192.0.2.99", 24), FIRST],
            [DefaultRoute4(2, source="192.0.2.99")],
            {},
            id="the-nodes-own-address-wins-over-a-route",
        ),
        pytest.param([FIRST, A, B], [], {3: "198.18.0.1"}, id="first-without-a-route"),
        pytest.param(
            [FIRST, A, B], [DefaultRoute4(2, "192.0.2.254")], {3: A.address}, id="another-devices-route"
        ),
        pytest.param([A, B], [DefaultRoute4(3, "198.18.7.254")], {3: B.address}, id="gateways-network"),
        pytest.param([B2, B], [DefaultRoute4(3, "198.18.7.254")], {3: B.address}, id="primary-first"),
        pytest.param([A, B], [DefaultRoute4(3, "203.0.113.1")], {3: A.address}, id="gateway-in-no-network"),
        pytest.param([A, B], [DefaultRoute4(3)], {3: A.address}, id="route-without-gateway"),
        pytest.param(
            [A, B, B2],
            [DefaultRoute4(3, "198.18.0.254", B2.address)],
            {3: B2.address},
            id="the-route-names-an-address",
        ),
        pytest.param(
            [A, B],
            [DefaultRoute4(3, "198.18.7.254", "203.0.113.5")],
            {3: B.address},
            id="the-route-names-an-address-of-another-device",
        ),
        pytest.param(
            [A, B],
            [DefaultRoute4(3, "198.18.7.254", metric=200), DefaultRoute4(3, "198.18.0.254", metric=100)],
            {3: A.address},
            id="the-best-route",
        ),
        pytest.param([LOCAL, A], [], {3: A.address}, id="not-beyond-its-link"),
        pytest.param([LOCAL], [], {}, id="nothing-usable"),
        pytest.param(
            [FIRST, A, Address4(4, "198.18.9.1", 24)], [], {3: A.address, 4: "198.18.9.1"}, id="many-devices"
        ),
    ],
)
def test_the_kernels_choice(
    addresses: list[Address4], routes: list[DefaultRoute4], chosen: dict[int, str]
) -> None:
    assert masquerade_addresses(addresses, routes, NODE_IP) == chosen


pool = [FIRST, A, B, B2, LOCAL, Address4(4, "198.18.9.1", 24), Address4(5, "198.18.9.2", 32)]
ways = st.lists(
    st.builds(
        DefaultRoute4,
        st.integers(2, 6),
        st.sampled_from([None, "198.18.0.254", "198.18.7.254", "203.0.113.1"]),
        st.sampled_from([None, *(known.address for known in pool)]),
        st.integers(0, 3),
    )
)


@given(st.lists(st.sampled_from(pool), unique=True), ways)
def test_an_address_is_always_the_devices_own(addresses: list[Address4], routes: list[DefaultRoute4]) -> None:
    chosen = masquerade_addresses(addresses, routes, NODE_IP)
    usable = {(known.ifindex, known.address) for known in addresses if known.universe}
    assert set(chosen.items()) <= usable
    assert chosen.keys() == {ifindex for ifindex, _ in usable} - {
        known.ifindex for known in addresses if known == FIRST
    }
