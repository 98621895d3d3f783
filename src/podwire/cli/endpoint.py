"""``podwire endpoint list|get``."""

from __future__ import annotations

import time
from typing import Any

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import ago, output_option, print_facts, print_json, print_table


@click.group()
def endpoint() -> None:
    """Show the pods' interfaces on this node."""


@endpoint.command("list")
@output_option
@click.pass_obj
def list_endpoints(client: AgentClient, output: str) -> None:
    """List the endpoints of this node."""
    endpoints = client.get("/v1/endpoints")["endpoints"]
    if output == "json":
        print_json(endpoints)
        return
    now = time.time()
    print_table(
        ["ADDRESS", "POD", "INTERFACE", "CONTAINER", "SLOT", "AGE"],
        [
            (
                e["address"],
                pod_name(e),
                e["host_ifname"],
                e["container_id"][:13],
                e["slot"],
                ago(now - e["created"]),
            )
            for e in sorted(endpoints, key=lambda e: [int(part) for part in e["address"].split(".")])
        ],
    )


@endpoint.command("get")
@click.argument("name")
@output_option
@click.pass_obj
def get_endpoint(client: AgentClient, name: str, output: str) -> None:
    """Show one endpoint.

    NAME is its address, its pod (NAMESPACE/POD or POD), its host interface, or the beginning of its container
    id."""
    found = [e for e in client.get("/v1/endpoints")["endpoints"] if matches(e, name)]
    if len(found) != 1:
        which = f"{len(found)} endpoints match" if found else "no endpoint matches"
        raise click.ClickException(f"{which} {name}; see podwire endpoint list")
    if output == "json":
        print_json(found[0])
        return
    print_facts([(key, value, None) for key, value in found[0].items()])


def pod_name(endpoint: dict[str, Any]) -> str:
    """Namespace/name of the pod, as far as the runtime told it."""
    if endpoint["health"]:
        return "(health endpoint)"
    return "/".join(part for part in (endpoint["pod_namespace"], endpoint["pod_name"]) if part)


def matches(endpoint: dict[str, Any], name: str) -> bool:
    exact = (endpoint["address"], pod_name(endpoint), endpoint["pod_name"], endpoint["host_ifname"])
    return bool(name) and (name in exact or endpoint["container_id"].startswith(name))
