"""What a snap file says of itself."""

from __future__ import annotations

from ansible_collections.podwire.ebpf.plugins.module_utils.snap_file import parse_snap_yaml


def test_a_snap_file_is_described_by_its_own_yaml(tmp_path):
    text = 'name: microk8s\nversion: "v1.28.15"\nconfinement: classic\napps:\n  x:\n    name: wrong\n'
    found = parse_snap_yaml(tmp_path / "a.snap", text)
    assert (found.name, found.version, found.confinement, found.type) == (
        "microk8s",
        "v1.28.15",
        "classic",
        "app",
    )
    assert found.assertions is None
    (tmp_path / "a.assert").write_text("")
    assert found.assertions == tmp_path / "a.assert"
