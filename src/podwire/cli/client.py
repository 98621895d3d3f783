"""Ask the agent over its unix socket. Standard library only, so that `podwire status` starts quickly."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

DEFAULT_SOCKET = "/run/podwire/agent.sock"


class AgentError(Exception):
    """The agent did not answer, or refused. The message says what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AgentClient:
    """The REST API of this node's agent."""

    def __init__(self, path: str = DEFAULT_SOCKET, timeout: float = 30.0) -> None:
        """``timeout`` in seconds, for one request."""
        self.path = path
        self._timeout = timeout

    def get(self, resource: str, *, accept: tuple[int, ...] = (200,)) -> Any:
        """The decoded answer. Raises AgentError."""
        return self._request("GET", resource, None, accept)

    def put(self, resource: str, body: dict[str, Any]) -> Any:
        """The decoded answer. Raises AgentError."""
        return self._request("PUT", resource, body, (200,))

    def post(self, resource: str, body: dict[str, Any]) -> Any:
        """The decoded answer. Raises AgentError."""
        return self._request("POST", resource, body, (200,))

    def _request(self, method: str, resource: str, body: Any, accept: tuple[int, ...]) -> Any:
        connection = _UnixConnection(self.path, self._timeout)
        try:
            connection.request(method, resource, None if body is None else json.dumps(body))
            response = connection.getresponse()
            status, text = response.status, response.read()
        except PermissionError as error:
            raise AgentError(f"no permission to use {self.path}: run podwire as root (sudo)") from error
        except (OSError, http.client.HTTPException) as error:
            raise AgentError(self._unreachable(error)) from error
        finally:
            connection.close()
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise AgentError(f"{method} {resource}: HTTP {status} without JSON from {self.path}") from error
        if status not in accept:
            reason = answer.get("error") if isinstance(answer, dict) else None
            raise AgentError(f"{method} {resource}: {reason or f'HTTP {status}'}")
        return answer

    def _unreachable(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            cause = "does not exist"
        elif isinstance(error, ConnectionRefusedError):
            cause = "has no listener"
        elif isinstance(error, TimeoutError):
            cause = f"gave no answer within {self._timeout:g} s"
        else:
            cause = f"failed ({error})"
        way_out = "see systemctl status podwire-agent"
        return f"podwire-agent is not running: its socket {self.path} {cause}; {way_out}"
