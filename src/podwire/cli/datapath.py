"""``podwire datapath``: load, look at and remove the datapath. The Ansible module calls these commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from podwire.datapath import Changes, Datapath, DatapathConfig, DatapathError, ServiceSettings
from podwire.datapath.config import GATEWAY_IP, HOST_MAC
from podwire.datapath.kernel import probe_features

from .output import output_option, print_json
from .rows import errors, print_fields, print_rows

UNHEALTHY = 3
"""Exit status of ``status`` when nothing is loaded or something is not as it was applied."""


@click.group("datapath")
def datapath() -> None:
    """Load, inspect and remove the eBPF datapath of this node."""


@datapath.command()
@click.option(
    "--objects",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory with *.bpf.o and manifest.json.",
)
@click.option(
    "--device", "devices", multiple=True, required=True, help="A device that carries the node's traffic."
)
@click.option("--node-ip", required=True, help="The node's IPv4 address.")
@click.option("--host-routing", type=click.Choice(["ebpf", "legacy"]), default="ebpf", show_default=True)
@click.option("--gateway-ip", default=GATEWAY_IP, show_default=True, help="The pods' gateway.")
@click.option("--host-mac", default=HOST_MAC, show_default=True, help="MAC address of host-side veths.")
@click.option(
    "--nat-ports", default="61000-65535", show_default=True, help="Ports for masquerading: MIN-MAX."
)
@click.option("--mtu", type=int, default=1500, show_default=True, help="Largest IP packet in bytes.")
@click.option("--masquerade/--no-masquerade", default=True, show_default=True)
@click.option(
    "--event-rate", type=int, default=100, show_default=True, help="Drop events per second and CPU."
)
@click.option("--attach", type=click.Choice(["auto", "tcx", "clsact"]), default="auto", show_default=True)
@click.option(
    "--services/--no-services", default=False, show_default=True, help="Translate services, for kube-proxy."
)
@click.option(
    "--node-ports",
    default="30000-32767",
    show_default=True,
    help="The cluster's range of node ports: MIN-MAX.",
)
@click.option("--maglev-size", type=int, default=16381, show_default=True, help="Entries of Maglev tables.")
@click.option("--dsr/--no-dsr", default=False, show_default=True, help="Remote backends answer directly.")
@click.option("--map-entries", multiple=True, metavar="NAME=N", help="Size of a map, where not the default.")
@click.option("--check", is_flag=True, help="Tell what would be done, do nothing.")
@output_option
def apply(objects: Path, devices: tuple[str, ...], check: bool, output: str, **settings: Any) -> None:
    """Load the objects, attach them to the devices, replace what is there; repeating it changes nothing."""
    with errors(output):
        manager = Datapath()
        config = _config(settings)
        changes = manager.apply(config, objects.resolve(), list(devices), dry_run=check)
        _print_changes(changes, manager, output)


@datapath.command()
@click.option("--check", is_flag=True, help="Tell what would be done, do nothing.")
@output_option
def restore(check: bool, output: str) -> None:
    """Apply again what was applied last, e.g. after a reboot."""
    with errors(output):
        manager = Datapath()
        _print_changes(manager.reapply(dry_run=check), manager, output)


@datapath.command()
@click.option("--entries", is_flag=True, help="Count the entries of every map (slow when they are full).")
@output_option
def status(entries: bool, output: str) -> None:
    """Show what is loaded and attached. Exit status 3 when it is not as it was applied."""
    with errors(output):
        found = Datapath().status(count_entries=entries)
        values = found.to_dict()
        if output == "json":
            print_json(values)
        else:
            _print_status(values)
        if found.problems:
            sys.exit(UNHEALTHY)


@datapath.command()
@click.option("--check", is_flag=True, help="Tell what would be done, do nothing.")
@output_option
def remove(check: bool, output: str) -> None:
    """Detach and unload everything; pods and node lose the datapath's forwarding."""
    with errors(output):
        manager = Datapath()
        _print_changes(manager.remove(dry_run=check), manager, output)


@datapath.command()
@output_option
def features(output: str) -> None:
    """Show what this kernel offers, found by trying."""
    with errors(output):
        found = probe_features().to_dict()
        if output == "json":
            print_json(found)
        else:
            print_fields(found)


def _config(settings: dict[str, Any]) -> DatapathConfig:
    nat_min, nat_max = _range("nat-ports", settings.pop("nat_ports"), "61000-65535")
    node_min, node_max = _range("node-ports", settings.pop("node_ports"), "30000-32767")
    services = ServiceSettings(
        enabled=settings.pop("services"),
        node_port_min=node_min,
        node_port_max=node_max,
        maglev_size=settings.pop("maglev_size"),
        dsr=settings.pop("dsr"),
    )
    sizes = {}
    for item in settings.pop("map_entries"):
        name, _, number = item.partition("=")
        if not number.isdigit():
            raise DatapathError(f"map-entries {item!r} is not of the form NAME=NUMBER")
        sizes[name] = int(number)
    return DatapathConfig(
        nat_port_min=nat_min, nat_port_max=nat_max, map_entries=sizes, services=services, **settings
    )


def _range(option: str, text: str, example: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not (dash and low.isdigit() and high.isdigit()):
        raise DatapathError(f"{option} is not of the form MIN-MAX", f"Write for example {example}.")
    return int(low), int(high)


def _print_changes(changes: Changes, manager: Datapath, output: str) -> None:
    if output == "json":
        print_json({**changes.to_dict(), "facts": manager.status().to_dict()})
        return
    for step in changes.steps or ["nothing to do"]:
        click.echo(step)
    for note in changes.notes:
        click.echo(f"note: {note}")


def _sockets_text(sockets: dict[str, Any]) -> str:
    if not sockets or not sockets["enabled"]:
        return "off"
    return sockets["reason"] or f"{', '.join(sockets['attached'])} at {sockets['cgroup']}"


def _print_status(values: dict[str, Any]) -> None:
    names = ("installed", "kernel", "mode", "requested", "reason", "attach", "objects", "digest", "endpoints")
    print_fields({name: values[name] for name in names})
    click.echo()
    print_rows("Devices", values["devices"])
    click.echo()
    print_fields({"services_in_sockets": _sockets_text(values["sockets"])})
    click.echo()
    print_rows("Programs", values["programs"], ("name", "id", "tag", "attached", "xlated_bytes"))
    click.echo()
    print_rows("Maps", values["maps"], ("name", "type", "entries", "max_entries", "id"))
    for problem in values["problems"]:
        click.echo(f"problem: {problem}", err=True)
