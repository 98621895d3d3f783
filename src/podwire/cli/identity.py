"""``podwire identity list|get``."""

from __future__ import annotations

from typing import Any

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import output_option, print_facts, print_json, print_table


@click.group()
def identity() -> None:
    """Show identities: the numbers that sets of labels, prefixes and nodes have."""


@identity.command("list")
@output_option
@click.pass_obj
def list_identities(client: AgentClient, output: str) -> None:
    """List the identities that this node knows.

    Those of the kind cidr are this node's own; the others are the same on every node."""
    identities = client.get("/v1/identities")["identities"]
    if output == "json":
        print_json(identities)
        return
    print_table(
        ["IDENTITY", "KIND", "LABELS", "ADDRESSES"],
        [(item["identity"], item["kind"], ", ".join(item["labels"]), addresses(item)) for item in identities],
    )


@identity.command("get")
@click.argument("number", type=int)
@output_option
@click.pass_obj
def get_identity(client: AgentClient, number: int, output: str) -> None:
    """Show one identity with its labels and addresses."""
    value = client.get(f"/v1/identities/{number}")
    if output == "json":
        print_json(value)
        return
    print_facts(
        [
            ("Identity", value["identity"], None),
            ("Kind", value["kind"], None),
            *(("Label" if first else "", label, None) for first, label in numbered(value["labels"])),
            *(("Address" if first else "", text, None) for first, text in numbered(value["addresses"])),
        ]
    )


def numbered(values: list[str]) -> list[tuple[bool, str]]:
    """Each value, and whether it is the first."""
    return [(number == 0, value) for number, value in enumerate(values)]


def addresses(item: dict[str, Any], most: int = 3) -> str:
    """Some of an identity's addresses, for a table."""
    shown = item["addresses"][:most]
    rest = len(item["addresses"]) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
