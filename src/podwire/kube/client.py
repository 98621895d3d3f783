"""A thin layer over the official client: raw JSON instead of model objects, which saves time and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
WATCH_SECONDS = 75
"""A watch ends after this time and starts again where it stopped, so a dead connection is noticed soon."""
PAGE = 500


class ApiError(Exception):
    """The API cannot be reached or refused a request. ``status`` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class KubeClient:
    """Nodes of one cluster. Calls block; every one has a time limit."""

    def __init__(self, kubeconfig: Path) -> None:
        """Raises ApiError when the kubeconfig cannot be used."""
        # Imported here: the client takes a third of a second and the agent must serve before that.
        from kubernetes import client, config
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError

        self._errors = (ApiException, HTTPError, OSError)
        try:
            settings = client.Configuration()
            settings.retries = False  # the caller decides when to try again
            api = config.new_client_from_config(  # type: ignore[no-untyped-call]
                str(kubeconfig), client_configuration=settings
            )
        except (ConfigException, OSError, ValueError, TypeError) as error:
            raise ApiError(f"kubeconfig {kubeconfig} cannot be used: {error}") from error
        self.server = str(settings.host)
        self._core = client.CoreV1Api(api)

    def list_nodes(self) -> tuple[list[dict[str, Any]], str]:
        """Every Node and the resource version to watch from."""
        nodes: list[dict[str, Any]] = []
        token = ""
        while True:
            options = {"_continue": token} if token else {}
            page = self._json(
                self._call(
                    self._core.list_node,
                    limit=PAGE,
                    _request_timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                    **options,
                )
            )
            nodes.extend(page.get("items") or ())
            metadata = page.get("metadata") or {}
            token = metadata.get("continue") or ""
            if not token:
                return nodes, str(metadata.get("resourceVersion", ""))

    def watch_nodes(self, resource_version: str) -> Iterator[dict[str, Any]]:
        """Events after ``resource_version`` until the watch ends by itself (about a minute)."""
        response = self._call(
            self._core.list_node,
            watch=True,
            resource_version=resource_version,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_SECONDS,
            _request_timeout=(CONNECT_TIMEOUT, WATCH_SECONDS + READ_TIMEOUT),
        )
        try:
            rest = b""
            for chunk in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
        except (*self._errors, ValueError) as error:
            raise ApiError(f"watching Nodes at {self.server}: {error}") from error
        finally:
            response.close()
            response.release_conn()

    def annotate_node(self, name: str, annotations: dict[str, str | None]) -> None:
        """Set annotations of a Node; None removes one."""
        response = self._call(
            self._core.patch_node,
            name,
            {"metadata": {"annotations": annotations}},
            _request_timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
        )
        response.release_conn()

    def _call(self, method: Any, *args: Any, **options: Any) -> Any:
        try:
            return method(*args, _preload_content=False, **options)
        except self._errors as error:
            status = getattr(error, "status", 0) or 0
            reason = getattr(error, "reason", None) or error
            raise ApiError(f"Kubernetes API {self.server}: {reason}", int(status)) from error

    def _json(self, response: Any) -> dict[str, Any]:
        try:
            value = json.loads(response.data)
        except (*self._errors, ValueError) as error:
            raise ApiError(f"Kubernetes API {self.server}: unreadable answer: {error}") from error
        finally:
            response.release_conn()
        if not isinstance(value, dict):
            raise ApiError(f"Kubernetes API {self.server}: unexpected answer")
        return value
