"""The Kubernetes API as raw JSON: list, watch, and the few writes the agent makes.

Of the official client only configuration, credentials and connection pool are used: its typed API and models
cost more memory (some 25 MB) than the whole agent's own code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0
WATCH_SECONDS = 75
"""A watch ends after this time and starts again where it stopped, so a dead connection is noticed soon."""
PAGE = 500
NODES = "/api/v1/nodes"
_MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"
_REASON_LIMIT = 300


class ApiError(Exception):
    """The API cannot be reached or refused a request. ``status`` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(" ".join(message.split()))  # TLS errors come with line breaks
        self.status = status


class Page:
    """A part of a list: ``items``, and the ``version`` of the whole list to watch from."""

    __slots__ = ("items", "version")

    def __init__(self, items: list[dict[str, Any]], version: str) -> None:
        self.items = items
        self.version = version


class KubeClient:
    """One cluster's API. Calls block; every one has a time limit. May be shared by threads."""

    def __init__(self, kubeconfig: Path) -> None:
        """Raises ApiError when the kubeconfig cannot be used."""
        # Imported here: the client takes a third of a second and the agent must serve before that.
        from kubernetes import client, config
        from kubernetes.config import ConfigException
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        self._errors = (HTTPError, OSError)
        self._timeout = Timeout
        self._settings = client.Configuration()
        self._settings.retries = False  # the caller decides when to try again
        try:
            api = config.new_client_from_config(  # type: ignore[no-untyped-call]
                str(kubeconfig), client_configuration=self._settings
            )
        except (ConfigException, OSError, ValueError, TypeError) as error:
            raise ApiError(f"kubeconfig {kubeconfig} cannot be used: {error}") from error
        self._pool = api.rest_client.pool_manager
        self.server = str(self._settings.host)

    # -- reading -----------------------------------------------------------------------------------

    def get(self, path: str) -> dict[str, Any]:
        """One object, or what the API says of itself. Raises ApiError."""
        return self._json(self._request("GET", path, {}))

    def list_pages(self, path: str, selector: Mapping[str, str] | None = None) -> Iterator[Page]:
        """Every object of a resource, a page at a time; all pages show the same moment. ``selector``:
        ``fieldSelector`` or ``labelSelector``, as query parameters. Raises ApiError (410: the list took so
        long that its moment is forgotten)."""
        query: dict[str, Any] = {**(selector or {}), "limit": PAGE}
        while True:
            value = self._json(self._request("GET", path, query))
            metadata = value.get("metadata") or {}
            yield Page(value.get("items") or [], str(metadata.get("resourceVersion", "")))
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    def watch(
        self, path: str, version: str, selector: Mapping[str, str] | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Events after ``version`` until the watch ends by itself (about a minute), those that came together
        in one list. The first is empty: the API has taken the request. ``selector`` as when the list was
        asked for. Raises ApiError."""
        query = {
            **(selector or {}),
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
        }
        response = self._request("GET", path, query, read_timeout=WATCH_SECONDS + READ_TIMEOUT)
        try:
            yield []
            rest = b""
            for chunk in response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield [json.loads(line) for line in lines if line.strip()]
        except (*self._errors, ValueError) as error:
            raise ApiError(f"watching {path} at {self.server}: {error}") from error
        finally:
            response.close()
            response.release_conn()

    # -- writing -----------------------------------------------------------------------------------

    def annotate_node(self, name: str, annotations: dict[str, str | None]) -> None:
        """Set annotations of a Node; None removes one."""
        patch = {"metadata": {"annotations": annotations}}
        path = f"{NODES}/{quote(name, safe='')}"
        self.patch(path, patch)

    def create(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """Make an object in the collection at ``path``; returns it as it is stored. Raises ApiError (409:
        there is one of that name)."""
        return self._json(self._request("POST", path, {}, body=value))

    def patch(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        """Merge ``value`` into the object at ``path``; returns what became of it. Raises ApiError."""
        return self._json(self._request("PATCH", path, {}, body=value, kind=_MERGE_PATCH))

    def delete(self, path: str, version: str = "") -> None:
        """Remove the object at ``path``; with ``version`` only if it still is at this resource version.

        Raises ApiError (409: it is not; 404: it is gone)."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if version:
            options["preconditions"] = {"resourceVersion": version}
        self._json(self._request("DELETE", path, {}, body=options))

    # -- parts -------------------------------------------------------------------------------------

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        *,
        body: Any = None,
        kind: str = _JSON,
        read_timeout: float = READ_TIMEOUT,
    ) -> Any:
        """The response, its body not read yet. Raises ApiError for everything but success."""
        headers = {"Accept": _JSON, **self._credentials()}
        if body is not None:
            headers["Content-Type"] = kind
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            response = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=self._timeout(connect=CONNECT_TIMEOUT, read=read_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except self._errors as error:
            raise ApiError(f"Kubernetes API {self.server}: {error}") from error
        if 200 <= response.status < 300:
            return response
        raise ApiError(f"Kubernetes API {self.server}: {self._reason(response)}", response.status)

    def _credentials(self) -> dict[str, str]:
        """Headers that say who asks; asked for each time, because tokens are renewed."""
        settings: Any = self._settings.auth_settings()
        return {
            item["key"]: item["value"]
            for item in settings.values()
            if item.get("in") == "header" and item.get("value")
        }

    def _reason(self, response: Any) -> str:
        try:
            value = json.loads(response.read(1 << 16))
            message = str(value["message"])
        except (*self._errors, ValueError, KeyError, TypeError):
            message = str(response.reason or "no reason given")
        finally:
            response.release_conn()
        return f"HTTP {response.status}: {message[:_REASON_LIMIT]}"

    def _json(self, response: Any) -> dict[str, Any]:
        try:
            value = json.loads(response.read())
        except (*self._errors, ValueError) as error:
            raise ApiError(f"Kubernetes API {self.server}: unreadable answer: {error}") from error
        finally:
            response.release_conn()
        if not isinstance(value, dict):
            raise ApiError(f"Kubernetes API {self.server}: unexpected answer")
        return value
