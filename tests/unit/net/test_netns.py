"""Network namespaces are told from other files before anyone enters them."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.net import netns


def test_own_namespace_is_recognised() -> None:
    found = netns.identify("/proc/self/ns/net")
    assert found is not None
    assert found.inode == Path("/proc/self/ns/net").stat().st_ino


@pytest.mark.parametrize("path", ["/etc/hostname", "/nonexistent", "/proc"])
def test_other_files_are_refused(path: str) -> None:
    assert netns.identify(path) is None
    with pytest.raises(netns.NetnsError, match=path):
        netns.open_netns(path)
