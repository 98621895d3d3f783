"""The control groups that all of a node's processes are in."""

from __future__ import annotations

import pytest

from podwire.datapath import cgroup
from podwire.datapath.errors import DatapathError

UNIFIED = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = """
29 22 0:25 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 29 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
30 29 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
"""
LEGACY = "31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("mountinfo", "expected"),
    [
        pytest.param(UNIFIED, "/sys/fs/cgroup", id="unified"),
        pytest.param(HYBRID, "/sys/fs/cgroup/unified", id="hybrid"),
        pytest.param(LEGACY, None, id="version 1 only"),
        pytest.param("", None, id="nothing"),
        pytest.param(
            UNIFIED.replace(" / ", " /machine.slice/node1 "), None, id="a part of the tree is not the tree"
        ),
        pytest.param(
            f"{UNIFIED.replace('/sys/fs/cgroup', '/a')}\n{UNIFIED}",
            "/sys/fs/cgroup",
            id="standard place first",
        ),
        pytest.param(
            UNIFIED.replace("/sys/fs/cgroup", "/run/c\\040g"), "/run/c g", id="elsewhere, with a space"
        ),
    ],
)
def test_the_whole_tree_is_found(mountinfo, expected):
    assert cgroup.choose(mountinfo) == expected


def test_without_control_groups_it_says_how_to_get_them(tmp_path, monkeypatch):
    (tmp_path / "mountinfo").write_text(LEGACY)
    monkeypatch.setattr(cgroup, "MOUNTINFO", tmp_path / "mountinfo")
    with pytest.raises(DatapathError, match="mount -t cgroup2 none /sys/fs/cgroup/unified"):
        cgroup.root()
