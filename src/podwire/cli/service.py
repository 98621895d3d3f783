"""``podwire service list|get``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import output_option, print_facts, print_json, print_table

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - how the API writes a node port's address; nothing is bound


@click.group()
def service() -> None:
    """Show the services that this node's datapath serves."""


@service.command("list")
@click.option("-n", "--namespace", help="Only services of this namespace.")
@output_option
@click.pass_obj
def list_services(client: AgentClient, namespace: str | None, output: str) -> None:
    """List services with their frontends and how many backends stand behind each.

    BACKENDS counts those for clients in the cluster and, after a slash, those for clients outside when
    externalTrafficPolicy Local makes them others."""
    answer = client.get("/v1/services")
    services = [item for item in answer["services"] if namespace in (None, item["namespace"])]
    if output == "json":
        print_json(services)
        return
    if not answer.get("enabled", True):
        click.echo("podwire serves no services on this node: they are left to kube-proxy")
        return
    rows = [row for item in services for row in rows_of(item)]
    print_table(["SERVICE", "TYPE", "KIND", "FRONTEND", "BACKENDS", "POLICY", "NOTE"], rows)
    for item in services:
        print_problems(item)


@service.command("get")
@click.argument("name", metavar="NAMESPACE/NAME")
@output_option
@click.pass_obj
def get_service(client: AgentClient, name: str, output: str) -> None:
    """Show one service, its frontends and the state of its backends.

    Without NAMESPACE/ the namespace default is meant."""
    namespace, _, short = name.rpartition("/")
    value = client.get(f"/v1/services/{quote(namespace or 'default', safe='')}/{quote(short, safe='')}")
    if output == "json":
        print_json(value)
        return
    print_facts(facts(value))
    if value["frontends"]:
        print_table(
            ["KIND", "FRONTEND", "BACKENDS", "POLICY", "ID"],
            [(*frontend_cells(item), item["id"]) for item in value["frontends"]],
            title="Frontends",
        )
    if value["backends"]:
        print_table(
            ["PORT", "BACKEND", "NODE", "STATE", "IN USE"],
            [
                (
                    item["port_name"],
                    f"{item['address']}:{item['port']}/{item['protocol']}",
                    f"{item['node'] or '-'}{' (this one)' if item['local'] else ''}",
                    item["state"],
                    "yes" if item["in_use"] else "no",
                )
                for item in value["backends"]
            ],
            title="Backends",
        )
    print_problems(value)


def rows_of(item: dict[str, Any]) -> list[tuple[Any, ...]]:
    """A service's lines in the list: one per frontend, its name only in the first."""
    name = f"{item['namespace']}/{item['name']}"
    note = "; ".join(part for part in (item["note"], problem_note(item)) if part)
    if not item["frontends"]:
        return [(name, item["type"], "", "", "", "", note)]
    return [
        (*((name, item["type"]) if first else ("", "")), *frontend_cells(frontend), note if first else "")
        for first, frontend in ((number == 0, value) for number, value in enumerate(item["frontends"]))
    ]


def frontend_cells(item: dict[str, Any]) -> tuple[str, str, str, str]:
    """Kind, address, number of backends and policy of a frontend."""
    address = "*" if item["address"] == ANY_ADDRESS else item["address"]
    inside, outside = item["backends"], item["external_backends"]
    count = str(inside) if outside in (None, inside) else f"{inside}/{outside}"
    return item["kind"], f"{address}:{item['port']}/{item['protocol']}", count, item["policy"]


def facts(value: dict[str, Any]) -> list[tuple[str, Any, bool | None]]:
    """The head of a service: name and value per line."""
    lines: list[tuple[str, Any, bool | None]] = [
        ("Service", f"{value['namespace']}/{value['name']}", None),
        ("Type", value["type"], None),
    ]
    if value["note"]:
        lines.append(("Not served", value["note"], None))
    if value.get("affinity_seconds"):
        lines.append(("Session affinity", f"by client address, {value['affinity_seconds']} s", None))
    if value.get("source_ranges") is not None:
        lines.append(("Source ranges", ", ".join(value["source_ranges"]) or "none: nobody is served", None))
    if value.get("health_check"):
        check = value["health_check"]
        lines.append(
            ("Health check", f"port {check['port']}: {check['local_endpoints']} endpoints on this node", None)
        )
    if value.get("publish_not_ready_addresses"):
        lines.append(("Not ready", "served too (publishNotReadyAddresses)", None))
    return lines


def problem_note(item: dict[str, Any]) -> str:
    """How many problems there are, for a table that has no room for them."""
    count = len(item["problems"])
    return f"{count} problem{'s' if count > 1 else ''}, see below" if count else ""


def print_problems(item: dict[str, Any]) -> None:
    name = f"{item['namespace']}/{item['name']}"
    print_facts(
        ("Problem", f"{name}: {problem['message']} ({problem['reason']})", False)
        for problem in item["problems"]
    )
