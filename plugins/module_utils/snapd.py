# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""A client for snapd's REST API on its unix socket.

It knows what snapd can be asked to do, and nothing of MicroK8s. Requests survive a restart of snapd (the
socket stays, systemd starts the daemon again), actions wait for a conflicting change, and a change that fails
or takes too long is reported with the task that was running and the last lines of its log.
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_changes import (
    ChangeFailedError,
    ChangeTimeoutError,
    failed,
    timed_out,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import (
    ChangeConflictError,
    SnapNotFoundError,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_transport import (
    RESTART_PATIENCE,
    SOCKET,
    Transport,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_upload import Upload

#: snapd has no long poll for changes.
POLL_INTERVAL = 0.5


class Snapd:
    """snapd on one machine.

    ``timeout`` is for one request, in seconds; a change is followed for as long as its caller says.
    """

    def __init__(
        self,
        socket_path: str = SOCKET,
        *,
        timeout: float = 60.0,
        restart_patience: float = RESTART_PATIENCE,
        poll_interval: float = POLL_INTERVAL,
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._transport = Transport(socket_path, timeout=timeout, restart_patience=restart_patience)
        self.poll_interval = poll_interval
        self.on_progress = on_progress

    # --- reading

    def version(self) -> str:
        """snapd's version, for instance ``2.57.6-1+deb12u1``."""
        return str(self.system_info().get("version", ""))

    def system_info(self) -> dict[str, Any]:
        """Version, operating system, refresh schedule and what the sandbox can do."""
        return dict(self._transport.get("/v2/system-info"))

    def snap(self, name: str) -> dict[str, Any] | None:
        """The record of an installed snap, or ``None``."""
        try:
            return dict(self._transport.get(f"/v2/snaps/{urllib.parse.quote(name)}"))
        except SnapNotFoundError:
            return None

    def services(self, name: str) -> list[dict[str, Any]]:
        """The snap's services. snapd leaves out false values; here ``enabled`` and ``active`` are
        always set.
        """
        found = self._transport.get("/v2/apps", {"select": "service", "names": name})
        return [
            {**app, "enabled": bool(app.get("enabled")), "active": bool(app.get("active"))}
            for app in found or []
        ]

    def changes_in_progress(self, name: str) -> list[dict[str, Any]]:
        """Changes of this snap that have not ended."""
        return list(self._transport.get("/v2/changes", {"select": "in-progress", "for": name}) or [])

    def change(self, identifier: str) -> dict[str, Any]:
        """One change with its tasks."""
        return dict(self._transport.get(f"/v2/changes/{urllib.parse.quote(identifier)}"))

    # --- acting; every method returns when snapd has finished, with the change as it ended

    def action(self, name: str, action: str, *, deadline: float, **options: Any) -> dict[str, Any]:
        """install, refresh, switch, remove, hold ... one snap and follow the change.

        ``deadline`` is a time of ``time.monotonic()``. A change that already works on this snap is waited for
        first.
        """
        body = {
            "action": action,
            **{key.replace("_", "-"): value for key, value in options.items() if value is not None},
        }
        return self._act(f"/v2/snaps/{urllib.parse.quote(name)}", body, name, deadline)

    def hold(self, name: str, *, deadline: float) -> dict[str, Any]:
        """No automatic refresh any more until it is released; a refresh that names the snap still works."""
        body = {"action": "hold", "snaps": [name], "time": "forever", "hold-level": "general"}
        return self._act("/v2/snaps", body, name, deadline)

    def control(self, action: str, names: Sequence[str], *, deadline: float) -> dict[str, Any]:
        """start, stop or restart services, named ``snap.app``."""
        return self._act(
            "/v2/apps", {"action": action, "names": list(names)}, names[0].split(".")[0], deadline
        )

    def assert_from(self, path: Path) -> None:
        """Make snapd know the assertions in a file, so that the snap beside it counts as signed."""
        self._transport.request(
            "POST", "/v2/assertions", body=path.read_bytes(), content_type="application/x.ubuntu.assertion"
        )

    def sideload(
        self, file: Path, name: str, *, classic: bool, dangerous: bool, deadline: float
    ) -> dict[str, Any]:
        """Upload a local snap file and install it, over an installed revision if there is one."""
        fields = {"action": "install"}
        if classic:
            fields["classic"] = "true"
        if dangerous:
            fields["dangerous"] = "true"

        def send() -> str:
            upload = Upload(file, fields)
            return self._async(
                "POST", "/v2/snaps", upload, upload.content_type, {"Content-Length": str(upload.length)}
            )

        return self._retrying(send, name, deadline)

    def wait(self, identifier: str, *, deadline: float) -> dict[str, Any]:
        """Follow a change until it ends; raise ``ChangeFailedError`` or ``ChangeTimeoutError``."""
        while True:
            change = self.change(identifier)
            if self.on_progress:
                self.on_progress(change)
            if change.get("ready"):
                break
            if time.monotonic() >= deadline:
                raise timed_out(change)
            time.sleep(self.poll_interval)
        if change.get("status") != "Done":
            raise failed(change)
        return change

    def wait_idle(self, name: str, *, deadline: float) -> list[dict[str, Any]]:
        """Wait for whatever works on this snap; return those changes as they ended, failed ones included."""
        ended = []
        for change in self.changes_in_progress(name):
            try:
                ended.append(self.wait(str(change["id"]), deadline=deadline))
            except ChangeTimeoutError:
                raise
            except ChangeFailedError:
                ended.append(self.change(str(change["id"])))
        return ended

    def _async(self, method: str, path: str, body: Any, content_type: str, headers: Mapping[str, str]) -> str:
        return str(
            self._transport.request(method, path, body=body, content_type=content_type, headers=headers).get(
                "change", ""
            )
        )

    def _act(self, path: str, body: Mapping[str, Any], name: str, deadline: float) -> dict[str, Any]:
        payload = json.dumps(body).encode()
        return self._retrying(
            lambda: self._async("POST", path, payload, "application/json", {}), name, deadline
        )

    def _retrying(self, send: Callable[[], str], name: str, deadline: float) -> dict[str, Any]:
        """Start a change, waiting while another one holds the snap, and follow it."""
        while True:
            try:
                identifier = send()
            except ChangeConflictError as conflict:
                if time.monotonic() >= deadline:
                    raise ChangeConflictError(
                        f"{conflict}; it did not end within the time allowed",
                        hint=conflict.hint,
                        kind=conflict.kind,
                        status=conflict.status,
                        value=conflict.value,
                    ) from conflict
                if not self.wait_idle(name, deadline=deadline):
                    time.sleep(self.poll_interval)
                continue
            if not identifier:
                return {}
            return self.wait(identifier, deadline=deadline)
