"""Talking to the API server with the credentials of this node."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from .kubeconfig import SERVER
from .layout import Layout


class ApiError(Exception):
    """The API server did not answer as hoped; the message says how."""


def _context(layout: Layout, user: str) -> ssl.SSLContext:
    ca = layout.cert("ca.remote.crt") if layout.is_worker else layout.cert("ca.crt")
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(layout.cert(f"{user}.crt"), layout.cert(f"{user}.key"))
    return context


def request(
    layout: Layout,
    path: str,
    *,
    method: str = "GET",
    body: object = None,
    content_type: str = "application/json",
    timeout: float = 5,
) -> Any:
    """One request; returns the decoded JSON, or the text when it is none. Raises ApiError."""
    user = "kubelet" if layout.is_worker else "client"
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(  # noqa: S310 - always https
        SERVER + path, data=data, method=method, headers={"Content-Type": content_type}
    )
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_context(layout, user))
    )
    try:
        with opener.open(call, timeout=timeout) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        raise ApiError(
            f"{method} {path}: {error.code} {error.read().decode(errors='replace').strip()}"
        ) from error
    except (OSError, ssl.SSLError) as error:
        raise ApiError(f"{method} {path}: {error}") from error
    try:
        return json.loads(text)
    except ValueError:
        return text


def is_up(layout: Layout) -> bool:
    """Does /readyz say ok?"""
    try:
        return bool(request(layout, "/readyz") == "ok")
    except (ApiError, OSError):
        return False


def nodes(layout: Layout) -> list[dict[str, Any]]:
    """The Node objects. Raises ApiError."""
    items = request(layout, "/api/v1/nodes")["items"]
    return list(items)


def node_status(node: dict[str, Any]) -> str:
    """A node's STATUS as kubectl prints it: Ready, NotReady, Ready,SchedulingDisabled..."""
    conditions = {entry["type"]: entry["status"] for entry in node.get("status", {}).get("conditions", ())}
    words = ["Ready" if conditions.get("Ready") == "True" else "NotReady"]
    if node.get("spec", {}).get("unschedulable"):
        words.append("SchedulingDisabled")
    return ",".join(words)
