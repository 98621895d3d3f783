# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ask the node's agent about the services that its datapath serves."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ansible_collections.podwire.ebpf.plugins.module_utils.agent_client import AgentClient

STATUS, SERVICES = "/v1/status", "/v1/services"
HTTP_OK = 200
HTTP_NOT_FOUND = 404


def read_services(client: AgentClient, namespace: str | None, name: str | None) -> dict[str, Any]:
    """The result of the module: all services, those of a namespace, or one with its backends.

    A name without namespace means namespace ``default``. Raises PodwireError."""
    _, status = client.get(STATUS)
    part = status.get("services") or {}
    found = read_one(client, namespace or "default", name) if name else read_all(client, namespace)
    return {
        "enabled": bool(part.get("enabled")),
        "synced": bool(part.get("synced")),
        "services": found,
        "problems": [
            {"namespace": item["namespace"], "name": item["name"], **problem}
            for item in found
            for problem in item["problems"]
        ],
    }


def read_all(client: AgentClient, namespace: str | None) -> list[dict[str, Any]]:
    """Every service, or every one of a namespace, without backends: there may be thousands."""
    _, answer = client.get(SERVICES)
    return [item for item in answer["services"] if namespace in (None, item["namespace"])]


def read_one(client: AgentClient, namespace: str, name: str) -> list[dict[str, Any]]:
    """A service with its backends; nothing when there is none of that name."""
    resource = "/".join((SERVICES, quote(namespace, safe=""), quote(name, safe="")))
    status, answer = client.get(resource, accept=(HTTP_OK, HTTP_NOT_FOUND))
    return [answer] if status == HTTP_OK else []
