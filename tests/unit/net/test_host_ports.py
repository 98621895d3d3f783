"""Ports of the host and of masqueraded connections must not meet."""

from __future__ import annotations

import pytest

from podwire.net.host_ports import clash


@pytest.mark.parametrize(
    ("port_range", "reserved", "expected"),
    [
        pytest.param("32768\t60999", "", None, id="the kernel's default lies below"),
        pytest.param("1024\t65535", "", (61000, 65535), id="a wide range meets all of it"),
        pytest.param("32768\t61000", "", (61000, 61000), id="one port is too many"),
        pytest.param("1024\t65535", "61000-65535", None, id="reserved"),
        pytest.param(
            "1024\t65535", "8080,61000-61999,62001-65535", (62000, 62000), id="reserved but for one"
        ),
        pytest.param("", "", None, id="unknown"),
    ],
)
def test_ports_that_both_may_use_are_found(
    port_range: str, reserved: str, expected: tuple[int, int] | None
) -> None:
    assert clash(port_range, reserved, 61000, 65535) == expected
