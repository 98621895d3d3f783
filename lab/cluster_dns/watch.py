"""Follow the objects of one kind through the API: list, then watch, and again when the watch ends.

Blocking; a thread per kind. What arrives is handed on as it comes; an API that is away is asked again each
second, for the names it gave last stay good.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# A watch ends by itself after that long, so a connection that died unnoticed is noticed soon after.
WATCH_SECONDS = 60
PATIENCE = 10
HTTP_OK = 200
HTTP_GONE = 410


class EndedError(Exception):
    """The list or the watch cannot go on; the reason in words."""


@dataclass(frozen=True)
class Api:
    """Where the API is, and how to speak to it."""

    host: str
    port: int
    context: ssl.SSLContext
    token: Callable[[], str]

    @classmethod
    def from_pod(cls, environment: Mapping[str, str]) -> Api:
        """What Kubernetes tells every pod: the service's address, a certificate, a token."""
        return cls(
            environment["KUBERNETES_SERVICE_HOST"],
            int(environment["KUBERNETES_SERVICE_PORT"]),
            ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")),
            # Read anew each time: kubelet replaces it before it expires.
            lambda: (ACCOUNT / "token").read_text().strip(),
        )

    def get(self, path: str, timeout: float) -> http.client.HTTPResponse:
        """The answer to a GET. Raises EndedError when it is not 200, OSError when there is none."""
        connection = http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.context)
        connection.request("GET", path, headers={"Authorization": f"Bearer {self.token()}"})
        response = connection.getresponse()
        if response.status != HTTP_OK:
            raise EndedError(f"GET {path}: HTTP {response.status} {response.read(300)!r}")
        return response


def follow(
    api: Api,
    kind: str,
    replace: Callable[[list[dict[str, Any]]], object],
    change: Callable[[str, dict[str, Any]], object],
) -> None:
    """Hand on every object of a kind (``services``, ...) for ever."""
    while True:
        try:
            with api.get(f"/api/v1/{kind}", PATIENCE) as response:
                listed = json.load(response)
            replace(listed["items"])
            version = listed["metadata"]["resourceVersion"]
            while True:
                for event in _watch(api, kind, version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        change(event["type"], event["object"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, EndedError) as error:
            print(f"{kind}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep(1)


def _watch(api: Api, kind: str, version: str) -> Iterator[dict[str, Any]]:
    query = f"watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}&allowWatchBookmarks=true"
    with api.get(f"/api/v1/{kind}?{query}", WATCH_SECONDS + PATIENCE) as response:
        for line in response:
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise EndedError(f"watch: {event['object'].get('message', event['object'])}")
            yield event
