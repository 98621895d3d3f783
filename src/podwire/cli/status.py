"""``podwire status``."""

from __future__ import annotations

from typing import Any

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import ago, output_option, print_facts, print_json


@click.command()
@output_option
@click.pass_obj
def status(client: AgentClient, output: str) -> None:
    """Show how the agent and the datapath are doing."""
    value = client.get("/v1/status")
    if output == "json":
        print_json(value)
        return
    print_facts(facts(value))


def facts(value: dict[str, Any]) -> list[tuple[str, Any, bool | None]]:
    """The lines of the status: name, value, good or bad."""
    ipam, kubernetes, datapath = value["ipam"], value["kubernetes"], value["datapath"]
    lines: list[tuple[str, Any, bool | None]] = [
        ("Node", f"{value['node']} ({value['node_ip'] or 'address unknown'})", None),
        ("Agent", f"{value['version']}, pid {value['pid']}, up {ago(value['uptime_seconds'])}", None),
        ("Ready", "yes" if value["ready"] else "no: " + "; ".join(value["reasons"]), value["ready"]),
        ("Host routing", routing(datapath), None),
        ("Datapath", attached(datapath), bool(datapath.get("installed")) and not datapath.get("problems")),
        ("Addresses", f"{ipam['used']} of {ipam['size']} in {ipam['pod_cidr'] or 'no podCIDR yet'}", None),
        ("Endpoints", value["endpoints"], None),
        (
            "Nodes",
            f"{kubernetes['nodes']} ({kubernetes['source']}: {kubernetes['detail']})",
            kubernetes["connected"],
        ),
        ("Policies", *policies(value.get("policies") or {})),
        ("Services", *services(value.get("services") or {})),
        ("Netfilter forward", netfilter(value), None),
    ]
    problems = [*value["problems"], *datapath.get("problems", [])]
    return lines + [("Problem", problem, False) for problem in problems]


def policies(value: dict[str, Any]) -> tuple[str, bool | None]:
    """How many policies there are and how they are enforced; good or bad."""
    if not value.get("enabled"):
        return "not enforced: there is no Kubernetes API", None
    if "policies" not in value:
        return "not begun yet", False
    count = f"{value['policies']} at revision {value['revision']}"
    if not value["synced"]:
        return f"{count}, not known completely yet ({value['source']['detail']}): those of before hold", False
    mode = "" if value["enforcement"] == "default" else f", enforcement {value['enforcement']}"
    audit = ", audit: what is refused passes" if value["audit"] else ""
    problems = f"; {value['problems']} problems (podwire policy list)" if value["problems"] else ""
    return f"{count}{mode}{audit}{problems}", not problems


def services(value: dict[str, Any]) -> tuple[str, bool | None]:
    """Who serves services and how many there are; good or bad."""
    if not value.get("enabled"):
        return "left to kube-proxy", None
    if "services" not in value:
        return "not begun yet", False
    counts = f"{value['services']} with {value['frontends']} frontends and {value['backends']} backends"
    if not value["synced"]:
        return f"{counts}, not known completely yet ({value['source']['detail']})", False
    sockets = "" if value["socket"] == "attached" else f"; not in sockets: {value['socket']}"
    problems = f"; {value['problems']} problems (podwire service list)" if value["problems"] else ""
    return counts + sockets + problems, not (sockets or problems)


def routing(datapath: dict[str, Any]) -> str:
    """Mode in effect, and why it is not the one that was asked for."""
    mode, requested = datapath.get("mode") or "none", datapath.get("requested")
    if requested and requested != mode:
        return f"{mode} (wanted {requested}: {datapath.get('reason')})"
    return str(mode)


def attached(datapath: dict[str, Any]) -> str:
    if not datapath.get("installed"):
        return "not loaded"
    devices = ", ".join(device["name"] for device in datapath["devices"]) or "no device"
    programs, endpoints = len(datapath["programs"]), len(datapath["endpoints"])
    return f"{datapath['attach']}, {programs} programs on {devices} and {endpoints} endpoints"


def netfilter(value: dict[str, Any]) -> str:
    if value["netfilter_forward_packets"] is None:
        return f"not counted: {value['netfilter_problem']}"
    return f"{value['netfilter_forward_packets']} pod packets passed its forward hook"
