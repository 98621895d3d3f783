"""``podwire metrics``."""

from __future__ import annotations

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import output_option, print_json, print_table


@click.command()
@output_option
@click.pass_obj
def metrics(client: AgentClient, output: str) -> None:
    """Show forwarded and dropped packets."""
    value = client.get("/v1/metrics")
    if output == "json":
        print_json(value)
        return
    print_table(
        ["FORWARDED", "PACKETS", "BYTES"],
        [(kind, counter["packets"], counter["bytes"]) for kind, counter in value["forwarded"].items()],
    )
    print_table(
        ["DROPPED", "REASON", "DIRECTION", "PACKETS", "BYTES"],
        [(d["reason_name"], d["reason"], d["direction"], d["packets"], d["bytes"]) for d in value["drops"]],
    )
