# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Talk to the node's agent: JSON over HTTP over a unix socket, with the standard library alone."""

from __future__ import annotations

import http.client
import json
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.unix_http import UnixHTTPConnection

DEFAULT_SOCKET = "/run/podwire/agent.sock"

ARGUMENTS: dict[str, dict[str, Any]] = {
    "socket": {"type": "path", "default": DEFAULT_SOCKET},
}
"""Options shared by every module that asks the agent; documented in the fragment ``podwire.ebpf.agent``."""


class AgentUnavailableError(PodwireError):
    """Nobody answers on the socket: the agent is not installed, not started, or still starting."""


class AgentRefusedError(PodwireError):
    """The agent answered, and said no. ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int, body: Any) -> None:
        super().__init__(message, details={"agent_answer": body})
        self.status = status


class AgentClient:
    """The agent's REST API. ``timeout`` is in seconds and holds for one request."""

    def __init__(self, path: str = DEFAULT_SOCKET, timeout: float = 30.0) -> None:
        self.path = path
        self.timeout = timeout

    def get(self, resource: str, accept: tuple[int, ...] = (200,)) -> tuple[int, Any]:
        """Return the HTTP status and the decoded answer; a status outside ``accept`` raises."""
        return self._request("GET", resource, None, accept)

    def put(self, resource: str, body: dict[str, Any], accept: tuple[int, ...] = (200,)) -> tuple[int, Any]:
        """Send ``body`` and return the HTTP status and the decoded answer."""
        return self._request("PUT", resource, body, accept)

    def post(self, resource: str, body: dict[str, Any], accept: tuple[int, ...] = (200,)) -> tuple[int, Any]:
        """Ask with ``body`` and return the HTTP status and the decoded answer."""
        return self._request("POST", resource, body, accept)

    def _request(self, method: str, resource: str, body: Any, accept: tuple[int, ...]) -> tuple[int, Any]:
        connection = UnixHTTPConnection(self.path, self.timeout)
        try:
            payload = None if body is None else json.dumps(body)
            headers = {"Accept": "application/json"}
            if payload is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, resource, payload, headers)
            response = connection.getresponse()
            status, text = response.status, response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable(method, resource, error) from error
        finally:
            connection.close()
        answer = self._decode(method, resource, status, text)
        if status not in accept:
            raise AgentRefusedError(
                f"the agent refused {method} {resource}: {reason_of(answer)}", status, answer
            )
        return status, answer

    def _unavailable(self, method: str, resource: str, error: Exception) -> AgentUnavailableError:
        if isinstance(error, PermissionError):
            return AgentUnavailableError(
                f"no permission to use the agent's socket {self.path}",
                "It belongs to root: run the task with become: true.",
            )
        if isinstance(error, FileNotFoundError):
            cause, way_out = "does not exist", "Install the agent (role podwire.ebpf.agent) or start it"
        elif isinstance(error, ConnectionRefusedError):
            cause, way_out = "has no listener", "Start the agent"
        elif isinstance(error, TimeoutError):
            cause, way_out = f"did not answer within {self.timeout:g} s", "See what it is busy with"
        else:
            cause, way_out = f"failed ({error.__class__.__name__}: {error})", "See why"
        return AgentUnavailableError(
            f"{method} {resource}: the agent's socket {self.path} {cause}",
            f"{way_out}: systemctl status podwire-agent; journalctl -u podwire-agent.",
        )

    @staticmethod
    def _decode(method: str, resource: str, status: int, text: str) -> Any:
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise AgentRefusedError(
                f"{method} {resource} gave HTTP {status} and no JSON: {text[:200]!r}", status, text[:2000]
            ) from error


def reason_of(answer: Any) -> str:
    """The human part of an error answer, whichever of the usual keys carries it."""
    if isinstance(answer, dict):
        for key in ("reason", "msg", "message", "error", "details"):
            if answer.get(key):
                return str(answer[key])
    return json.dumps(answer, sort_keys=True)
