"""Whose an object is."""

from __future__ import annotations

import json

import pytest
from ansible_collections.podwire.ebpf.plugins.modules.kubectl_apply import others

OWNER = "app.kubernetes.io/name=podwire"
OURS = {"kind": "ConfigMap", "metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "podwire"}}}
OF_CILIUM = {"kind": "ConfigMap", "metadata": {"name": "b", "labels": {"io.cilium/version": "1"}}}
BARE = {"kind": "Secret", "metadata": {"name": "c"}}


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ("", []),
        ("\n", []),
        (OURS, []),
        (OF_CILIUM, ["ConfigMap/b"]),
        (BARE, ["Secret/c"]),
        ({"kind": "List", "items": []}, []),
        ({"kind": "List", "items": [OURS, OF_CILIUM, BARE]}, ["ConfigMap/b", "Secret/c"]),
    ],
)
def test_objects_without_the_label_are_somebody_elses(shown, found):
    assert others(shown if isinstance(shown, str) else json.dumps(shown), OWNER) == found
