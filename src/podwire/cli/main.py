"""``podwire``: look at this node's pod network, and change what may be changed by hand.

Commands are imported when they are used, so that a quick question gets a quick answer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from podwire import __version__
from podwire.cli.client import DEFAULT_SOCKET, AgentError

_COMMANDS = {
    "bpf": ("podwire.cli.bpf", "bpf", "Show the datapath's programs and maps."),
    "cleanup": ("podwire.cli.cleanup", "cleanup", "Remove everything podwire put on this node."),
    "datapath": ("podwire.cli.datapath", "datapath", "Load, inspect and remove the datapath."),
    "endpoint": ("podwire.cli.endpoint", "endpoint", "Show the pods' interfaces on this node."),
    "health": (
        "podwire.cli.health",
        "health",
        "Check this node's network; exit status 1 when a check fails.",
    ),
    "host-routing": ("podwire.cli.host_routing", "host_routing", "Show or switch the host-routing mode."),
    "identity": ("podwire.cli.identity", "identity", "Show identities and the labels they stand for."),
    "metrics": ("podwire.cli.metrics", "metrics", "Show forwarded and dropped packets."),
    "monitor": (
        "podwire.cli.monitor",
        "monitor",
        "Show dropped packets, verdicts of policies, new connections.",
    ),
    "policy": ("podwire.cli.policy", "policy", "Show network policies, and why a connection may (not) be."),
    "service": ("podwire.cli.service", "service", "Show services, their frontends and backends."),
    "status": ("podwire.cli.status", "status", "Show how the agent and the datapath are doing."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in sorted(_COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    default=DEFAULT_SOCKET,
    show_default=True,
    envvar="PODWIRE_SOCKET",
    metavar="PATH",
    help="The agent's socket.",
)
@click.version_option(__version__, prog_name="podwire")
@click.pass_context
def cli(context: click.Context, socket: str) -> None:
    """Look at this node's pod network."""
    from podwire.cli.client import AgentClient

    context.obj = AgentClient(socket)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; errors are one line on stderr and exit status 1."""
    try:
        # The exit status of a command that ended by context.exit(), None of one that simply ended.
        status = cli.main(args=arguments, prog_name="podwire", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 130
    except AgentError as error:
        click.echo(f"podwire: {error}", err=True)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
