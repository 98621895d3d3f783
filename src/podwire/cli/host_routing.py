"""``podwire host-routing``."""

from __future__ import annotations

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import output_option, print_json
from podwire.cli.status import routing


@click.command("host-routing")
@click.argument("mode", type=click.Choice(["ebpf", "legacy"]), required=False)
@click.option("--dry-run", is_flag=True, help="Say what would happen, change nothing.")
@output_option
@click.pass_obj
def host_routing(client: AgentClient, mode: str | None, dry_run: bool, output: str) -> None:
    """Show the host-routing mode of this node, or switch it to MODE. Connections go on."""
    if mode is None:
        datapath = client.get("/v1/status")["datapath"]
        if output == "json":
            print_json({key: datapath.get(key) for key in ("mode", "requested", "reason")})
        else:
            click.echo(routing(datapath))
        return
    change = client.put("/v1/host-routing", {"mode": mode, "dry_run": dry_run})
    if output == "json":
        print_json(change)
        return
    verb = "would change" if dry_run else "changed"
    outcome = (
        f"{verb} from {change['before']} to {change['after']}"
        if change["changed"]
        else f"stays {change['after']}"
    )
    click.echo(f"host routing {outcome}" + (f": {change['reason']}" if change["reason"] else ""))
