# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""What snapd refuses, as exceptions that tell the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError


class SnapdError(PodwireError):
    """snapd refused. ``kind`` is its machine-readable reason, often empty; ``status`` the HTTP status
    code.
    """

    def __init__(
        self, message: str, *, hint: str = "", kind: str = "", status: int = 0, value: Any = None
    ) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.status = status
        self.value = value


class SnapdUnavailableError(SnapdError):
    """There is no snapd to talk to, or it went away and did not come back."""


class NotPermittedError(SnapdError):
    """snapd wants root."""


class SnapNotFoundError(SnapdError):
    """The store does not know the snap, or the snap is not installed."""


class ChannelNotAvailableError(SnapdError):
    """The snap exists, but not in that channel or for this architecture."""


class ConfinementRefusedError(SnapdError):
    """``classic`` was asked for and cannot be had, or the other way round."""


class DiskFullError(SnapdError):
    """snapd has not enough room for the snap."""


class NetworkTroubleError(SnapdError):
    """snapd cannot reach the store."""


class ChangeConflictError(SnapdError):
    """Another change works on the same snap. It passes."""


class AlreadyDoneError(SnapdError):
    """The snap is in the wanted state: already installed, no update available, not installed."""


_BY_KIND: dict[str, tuple[type[SnapdError], str]] = {
    "login-required": (NotPermittedError, "Run the task as root (become: true)."),
    "auth-cancelled": (NotPermittedError, "Run the task as root (become: true)."),
    "snap-not-found": (SnapNotFoundError, "Check the snap's name, or give a local file."),
    "snap-not-installed": (AlreadyDoneError, ""),
    "snap-already-installed": (AlreadyDoneError, ""),
    "snap-no-update-available": (AlreadyDoneError, ""),
    "snap-channel-not-available": (ChannelNotAvailableError, ""),
    "snap-architecture-not-available": (ChannelNotAvailableError, ""),
    "snap-revision-not-available": (ChannelNotAvailableError, ""),
    "snap-needs-classic": (ConfinementRefusedError, "Set classic: true."),
    "snap-not-classic": (ConfinementRefusedError, "Set classic: false, or take a channel without -strict."),
    "snap-needs-classic-system": (
        ConfinementRefusedError,
        "This system cannot run classic snaps: a symbolic link /snap -> /var/lib/snapd/snap is missing, or "
        "it is Ubuntu Core.",
    ),
    "snap-needs-devmode": (ConfinementRefusedError, "The snap is a development build; take another channel."),
    "snap-change-conflict": (
        ChangeConflictError,
        "Wait for the other change (snap changes), then run again.",
    ),
    "insufficient-disk-space": (
        DiskFullError,
        "Free some room under /var/lib/snapd and /var/snap, then run again.",
    ),
    "network-timeout": (
        NetworkTroubleError,
        "Make api.snapcraft.io reachable from the node, or give a local file.",
    ),
    "dns-failure": (
        NetworkTroubleError,
        "Make api.snapcraft.io resolvable on the node, or give a local file.",
    ),
}


def error_from(status: int, result: Any) -> SnapdError:
    """The exception for an error reply's HTTP status and ``result``."""
    result = result if isinstance(result, Mapping) else {}
    kind = str(result.get("kind") or "")
    message = str(result.get("message") or f"HTTP status {status}")
    value = result.get("value")
    family, hint = _BY_KIND.get(kind, (SnapdError, ""))
    if not kind:
        if status in (401, 403):
            family, hint = NotPermittedError, "Run the task as root (become: true)."
        elif status == 409:
            family, hint = ChangeConflictError, _BY_KIND["snap-change-conflict"][1]
        elif status == 507 or "no space left" in message:
            family, hint = DiskFullError, _BY_KIND["insufficient-disk-space"][1]
        elif "network error" in message or "dial tcp" in message:
            family, hint = NetworkTroubleError, _BY_KIND["network-timeout"][1]
        elif "cannot find signatures" in message:
            hint = "Put the snap's .assert file beside it (snap download makes both), or set dangerous: true."
    if family is ChannelNotAvailableError and isinstance(value, Mapping):
        hint = _channel_hint(value)
    return family(f"snapd: {message}", hint=hint, kind=kind, status=status, value=value)


def _channel_hint(value: Mapping[str, Any]) -> str:
    releases = [
        f"{release.get('channel')} ({release.get('architecture')})"
        if value.get("architecture") != release.get("architecture")
        else str(release.get("channel"))
        for release in value.get("releases") or []
        if isinstance(release, Mapping)
    ]
    if not releases:
        return "snap info lists the channels."
    return f"There are: {', '.join(sorted(set(releases)))}."
