"""Error replies become exceptions with a way out."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import (
    AlreadyDoneError,
    ChangeConflictError,
    ChannelNotAvailableError,
    ConfinementRefusedError,
    DiskFullError,
    NetworkTroubleError,
    NotPermittedError,
    SnapdError,
    error_from,
)


@pytest.mark.parametrize(
    ("status", "kind", "family"),
    [
        (401, "login-required", NotPermittedError),
        (403, "", NotPermittedError),
        (400, "snap-already-installed", AlreadyDoneError),
        (400, "snap-no-update-available", AlreadyDoneError),
        (400, "snap-needs-classic", ConfinementRefusedError),
        (400, "snap-not-classic", ConfinementRefusedError),
        (400, "snap-needs-classic-system", ConfinementRefusedError),
        (409, "", ChangeConflictError),
        (507, "insufficient-disk-space", DiskFullError),
        (507, "", DiskFullError),
        (400, "network-timeout", NetworkTroubleError),
        (400, "something-new", SnapdError),
    ],
)
def test_error_kinds_become_exceptions(status, kind, family):
    assert type(error_from(status, {"message": "no", "kind": kind})) is family


def test_an_error_without_a_kind_is_judged_by_its_words():
    assert isinstance(error_from(500, {"message": "write: no space left on device"}), DiskFullError)
    assert isinstance(
        error_from(400, {"message": "persistent network error: dial tcp: lookup"}), NetworkTroubleError
    )
    assert "dangerous" in error_from(400, {"message": "cannot find signatures with metadata"}).hint
    assert str(error_from(400, None)) == "snapd: HTTP status 400"


def test_an_unknown_channel_lists_those_that_exist():
    value = {
        "snap-name": "microk8s",
        "channel": "1.99/stable",
        "architecture": "amd64",
        "releases": [
            {"architecture": "amd64", "channel": "1.28/stable"},
            {"architecture": "arm64", "channel": "1.27/edge"},
        ],
    }
    found = error_from(404, {"message": "no", "kind": "snap-channel-not-available", "value": value})
    assert isinstance(found, ChannelNotAvailableError)
    assert found.hint == "There are: 1.27/edge (arm64), 1.28/stable."
