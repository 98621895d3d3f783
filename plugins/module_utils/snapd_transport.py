# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to snapd on its unix socket: its envelope, and patience with a daemon that restarts itself."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import (
    NotPermittedError,
    SnapdError,
    SnapdUnavailableError,
    error_from,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.unix_http import UnixHTTPConnection

SOCKET = "/run/snapd.socket"
#: snapd's own client bears this long with a daemon that restarts itself, in seconds.
RESTART_PATIENCE = 120.0
RESTART_PAUSE = 0.25


class _NotSentError(Exception):
    """No connection was made, so nothing can have happened: safe to try again."""


class Transport:
    """One snapd's socket. In seconds: ``timeout`` for one request, ``restart_patience`` for a daemon that is
    away.
    """

    def __init__(
        self, socket_path: str, *, timeout: float = 60.0, restart_patience: float = RESTART_PATIENCE
    ) -> None:
        self.socket_path = socket_path
        self.timeout = timeout
        self.restart_patience = restart_patience
        self._answered = False

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """GET, repeated through a restart of snapd; return the reply's ``result``."""
        if query:
            path = f"{path}?{urllib.parse.urlencode(query)}"
        return self.request("GET", path)["result"]

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request; return the envelope of a success, raise the exception of an error.

        A connection that cannot be made is tried again while snapd may be restarting. One that breaks after
        the request was sent is tried again only for GET: the caller cannot know how far another one got.
        """
        give_up = time.monotonic() + self.restart_patience
        while True:
            try:
                return self._once(method, path, body, content_type, headers or {})
            except _NotSentError as error:
                if isinstance(error.__cause__, PermissionError):
                    raise NotPermittedError(
                        f"{self.socket_path}: permission denied", hint="Run the task as root (become: true)."
                    ) from error
                if not self._may_come_back(error) or time.monotonic() >= give_up:
                    raise self._unavailable(error.__cause__) from error
            except (OSError, http.client.HTTPException) as error:
                if method != "GET" or time.monotonic() >= give_up:
                    raise SnapdUnavailableError(
                        f"snapd closed the connection during {method} {path} "
                        f"({error or type(error).__name__})",
                        hint="See journalctl -u snapd and snap changes for how far it got; run again.",
                    ) from error
            time.sleep(RESTART_PAUSE)

    def _may_come_back(self, error: _NotSentError) -> bool:
        return self._answered or not isinstance(error.__cause__, FileNotFoundError)

    def _unavailable(self, cause: BaseException | None) -> SnapdUnavailableError:
        if isinstance(cause, FileNotFoundError):
            return SnapdUnavailableError(
                f"There is no snapd on this machine: {self.socket_path} does not exist",
                hint="Install the package snapd (apt-get install snapd) on a machine whose init is systemd.",
            )
        return SnapdUnavailableError(
            f"snapd does not answer on {self.socket_path}: {cause}",
            hint="Start it (systemctl start snapd.socket) and look at journalctl -u snapd.",
        )

    def _once(
        self, method: str, path: str, body: Any, content_type: str, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        connection = UnixHTTPConnection(self.socket_path, self.timeout)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _NotSentError from error
            sent = {"Content-Type": content_type, **headers} if body is not None else dict(headers)
            refused: Exception | None = None
            try:
                connection.request(method, path, body=body, headers=sent)
            except BrokenPipeError as error:
                # snapd answers an upload that it refuses (no space, say) before it has read all of it.
                refused = error
            try:
                response = connection.getresponse()
                payload = response.read()
            except (OSError, http.client.HTTPException):
                if refused:
                    raise refused from None
                raise
        finally:
            connection.close()
        self._answered = True
        try:
            envelope = json.loads(payload)
        except ValueError as error:
            raise SnapdError(
                f"{self.socket_path} answered {method} {path} with something that is no snapd reply: "
                f"{payload[:80]!r}",
                hint="Check that this socket is snapd's.",
            ) from error
        if envelope.get("type") == "error":
            raise error_from(int(envelope.get("status-code") or response.status), envelope.get("result"))
        return dict(envelope)
