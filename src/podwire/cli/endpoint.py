"""``podwire endpoint list|get``."""

from __future__ import annotations

import time
from typing import Any

import click

from podwire.cli.client import AgentClient
from podwire.cli.monitor import naming
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
        ["ADDRESS", "POD", "IDENTITY", "INGRESS", "EGRESS", "INTERFACE", "CONTAINER", "SLOT", "AGE"],
        [
            (
                e["address"],
                pod_name(e),
                e.get("identity") or "",
                *enforced(e),
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
    """Show one endpoint, what judges it, and each entry of its policy map with the rule behind it.

    NAME is its address, its pod (NAMESPACE/POD or POD), its host interface, or the beginning of its container
    id."""
    found = [e for e in client.get("/v1/endpoints")["endpoints"] if matches(e, name)]
    if len(found) != 1:
        which = f"{len(found)} endpoints match" if found else "no endpoint matches"
        raise click.ClickException(f"{which} {name}; see podwire endpoint list")
    value = client.get(f"/v1/endpoints/{found[0]['address']}")
    if output == "json":
        print_json(value)
        return
    print_facts(facts(value))
    entries = value.get("policy_map") or []
    if entries:
        print_table(
            ["DIRECTION", "VERDICT", "IDENTITY", "PEER", "PROTOCOL", "PORTS", "RULE"],
            [
                (
                    item["direction"], item["verdict"], item["identity"], naming(item["labels"]).strip(),
                    item["protocol"], item["ports"], item["rule"],
                )
                for item in entries
            ],
            title="Policy map",
        )  # fmt: skip


def facts(value: dict[str, Any]) -> list[tuple[str, Any, bool | None]]:
    """An endpoint as name and value per line, without its policy map."""
    lines: list[tuple[str, Any, bool | None]] = []
    for key, item in value.items():
        if key == "policy" and isinstance(item, dict):
            problem = item.get("problem")
            lines += [(f"policy {name}", text, None) for name, text in item.items() if name != "problem"]
            lines += [("policy problem", problem, False)] if problem else []
        elif key == "labels" and item:
            lines += [(key if number == 0 else "", label, None) for number, label in enumerate(item)]
        elif key != "policy_map":
            lines.append((key, item, None))
    return lines


def enforced(endpoint: dict[str, Any]) -> tuple[str, str]:
    """What is enforced on ingress and egress, as far as the agent knows."""
    policy = endpoint.get("policy") or {}
    return (policy.get("ingress") or "", policy.get("egress") or "")


def pod_name(endpoint: dict[str, Any]) -> str:
    """Namespace/name of the pod, as far as the runtime told it."""
    if endpoint["health"]:
        return "(health endpoint)"
    return "/".join(part for part in (endpoint["pod_namespace"], endpoint["pod_name"]) if part)


def matches(endpoint: dict[str, Any], name: str) -> bool:
    exact = (endpoint["address"], pod_name(endpoint), endpoint["pod_name"], endpoint["host_ifname"])
    return bool(name) and (name in exact or endpoint["container_id"].startswith(name))
