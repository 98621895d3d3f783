"""``python -m lab``: the lab's command line. ``make`` calls it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import click
from rich.console import Console

from lab import artifacts, checks, locks, nodes, process, report, up
from lab.config import DEFAULT_NAME, Lab, check_name, parse_count, state_directory
from lab.conformance import report as conformance_report
from lab.conformance import run as run_conformance
from lab.errors import LabError
from lab.progress import Progress


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """One command at a time changes a lab."""
    with locks.held(
        f"lab-{name}",
        busy=f"another command is working on lab {name}",
        hint="Wait for it to end, or end it; LAB=name works on another lab",
    ):
        yield


@click.group()
@click.option("--name", default=lambda: os.environ.get("LAB") or DEFAULT_NAME, help="Name of the lab.")
@click.pass_context
def main(context: click.Context, name: str) -> None:
    """Real machines for podwire on this machine: systemd containers, a bridge, a Kubernetes cluster."""
    context.obj = check_name(name)


def _console() -> Console:
    """A file or a pipe has no width: tables get what a log shows without wrapping."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=140)


def _progress(name: str) -> Progress:
    return Progress(_console(), state_directory(name) / "logs")


nodes_option = click.option(
    "--nodes", "count", default=lambda: os.environ.get("NODES"), help="Number of nodes: 1, 3, 5."
)


@main.command("up")
@nodes_option
@click.option("--no-check", is_flag=True, help="Leave the connectivity checks out.")
@click.pass_obj
def up_command(name: str, count: str | None, no_check: bool) -> None:
    """Bring the lab up and check it. Goes on where an earlier run stopped."""
    need_root()
    progress = _progress(name)
    with exclusive(name), progress.shown():
        lab = up.up(name, parse_count(count), progress)
        matrix = None if no_check else checks.run(lab, progress)
    report.show(progress.console, lab, matrix, progress.timings, progress.elapsed)
    if matrix:
        matrix.raise_if_broken(lab)


@main.command("machines")
@nodes_option
@click.pass_obj
def machines_command(name: str, count: str | None) -> None:
    """Only build the artifacts and start the machines, without a cluster."""
    need_root()
    progress = _progress(name)
    with exclusive(name), progress.shown():
        up.machines(name, parse_count(count), progress)


@main.command("build")
@click.argument("artifact", nargs=-1)
@click.pass_obj
def build_command(name: str, artifact: tuple[str, ...]) -> None:
    """Build artifacts (all, or the named ones) and print where they are."""
    need_root()
    progress = _progress(name)
    with progress.shown():
        made = artifacts.build(progress, artifact)
    for key, path in made.items():
        print(f"{key}\t{path}")


@main.command("check")
@click.pass_obj
def check_command(name: str) -> None:
    """Send real traffic between pods, nodes and the world, and print what arrived."""
    need_root()
    progress = _progress(name)
    with exclusive(name), progress.shown():
        lab = up.existing(name)
        matrix = checks.run(lab, progress)
    report.show(progress.console, lab, matrix, progress.timings, progress.elapsed)
    matrix.raise_if_broken(lab)


@main.command("conformance")
@click.option(
    "--focus", default=lambda: os.environ.get("FOCUS") or "", help="Only specs with this in their name."
)
@click.option("--streams", default=run_conformance.STREAMS, help="How many specs run at a time.")
@click.pass_obj
def conformance_command(name: str, focus: str, streams: int) -> None:
    """Run upstream's end-to-end specs of services, pod networking and policy against the running lab."""
    need_root()
    progress = _progress(name)
    with exclusive(name), progress.shown():
        lab = up.existing(name)
        up.write_kubeconfig(lab)
        directory = artifacts.build(progress, ["conformance"])["conformance"]
        outcome = run_conformance.run(lab, directory, progress, focus=focus, streams=streams)
    conformance_report.show(progress.console, outcome, progress.elapsed)
    outcome.raise_if_failed()


@main.command("status")
@click.pass_obj
def status_command(name: str) -> None:
    """Show the lab's nodes and their datapath."""
    lab = up.existing(name)
    report.show(_console(), lab, None, [])


@main.command("reboot")
@click.argument("node")
@click.pass_obj
def reboot_command(name: str, node: str) -> None:
    """Reboot NODE and wait until it can be reached."""
    need_root()
    with exclusive(name):
        lab = up.existing(name)
        check_node(lab, node)
        nodes.reboot(lab, node)
    print(f"{node} is up again")


@main.command("down")
@click.pass_obj
def down_command(name: str) -> None:
    """Remove every trace of the lab."""
    need_root()
    with exclusive(name):
        gone = up.down(name)
    print(f"lab {name}: removed {len(gone)} things" if gone else f"lab {name}: there was nothing to remove")


@main.command("ssh", context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def ssh_command(name: str, node: str, command: tuple[str, ...]) -> None:
    """Log in to NODE, or run COMMAND there."""
    lab = up.existing(name)
    check_node(lab, node)
    words = ["ssh", "-F", str(lab.state / "ssh_config"), node, *command]
    os.execvp("ssh", words)  # noqa: S606


def check_node(lab: Lab, node: str) -> None:
    """``LabError`` for a name that is no node of the lab."""
    if node not in lab.nodes:
        raise LabError(f"lab {lab.name} has no node {node}", f"Its nodes: {', '.join(lab.nodes)}")


def need_root() -> None:
    """The lab makes containers, links and mounts."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root", "Run it as root, as in `sudo make up`")


def run() -> int:
    """Run the command line; every failure is one message and a non-zero exit."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        main(standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except KeyboardInterrupt:
        process.stop_all()
        print("\ninterrupted; run it again to go on, make down to remove the lab", file=sys.stderr)
        return 130
    except LabError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        if error.hint:
            print(f"what to do: {error.hint}", file=sys.stderr)
        if error.log:
            print(f"log: {error.log}", file=sys.stderr)
        return 1
    except Exception as error:
        hint = getattr(error, "hint", "")
        if not hint:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
