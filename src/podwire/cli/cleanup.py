"""``podwire cleanup``."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_CONFIG = Path("/etc/podwire/agent.yaml")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def cleanup(context: click.Context, config: Path, yes: bool) -> None:
    """Remove everything podwire put on this node: pods lose their network. The agent must be stopped."""
    if not yes:
        click.confirm("Remove podwire from this node? Its pods lose their network", abort=True)
    from podwire.agent.main import main

    context.exit(main(["--config", str(config), "--cleanup"]))
