"""``podwire health``."""

from __future__ import annotations

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import output_option, print_json, print_table


@click.command()
@click.option(
    "--probe/--no-probe", default=True, show_default=True, help="Probe now instead of showing the last round."
)
@output_option
@click.pass_context
def health(context: click.Context, probe: bool, output: str) -> None:
    """Check this node's network; exit status 1 when a check fails."""
    client: AgentClient = context.obj
    value = client.get(f"/v1/health?probe={int(probe)}", accept=(200, 503))
    if output == "json":
        print_json(value)
    else:
        print_table(
            ["CHECK", "OK", "DETAIL"],
            [(check["name"], "yes" if check["ok"] else "NO", check["detail"]) for check in value["checks"]],
        )
    if not value["ok"]:
        context.exit(1)
