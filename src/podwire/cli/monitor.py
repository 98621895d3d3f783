"""``podwire monitor``."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import clock, output_option, print_json

WAIT = 20
"""Seconds one question waits for news; the next one follows at once."""


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on and print drops as they happen.")
@click.option(
    "-n", "--last", default=20, show_default=True, metavar="N", help="How many recent drops to begin with."
)
@output_option
@click.pass_obj
def monitor(client: AgentClient, follow: bool, last: int, output: str) -> None:
    """Show dropped packets, recent or as they happen. JSON with --follow is one object per line."""
    answer = ask(client, limit=last) if last > 0 else {**ask(client, limit=1), "events": []}
    if output == "json" and not follow:
        print_json(answer["events"])
        return
    show(answer, output)
    while follow:
        answer = ask(client, since=answer["last"], limit=1000, wait=WAIT)
        show(answer, output)


def ask(client: AgentClient, **query: int) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"/v1/drops?{urllib.parse.urlencode(query)}")
    return answer


def show(answer: dict[str, Any], output: str) -> None:
    if output == "table" and answer["lost"]:
        click.echo(f"({answer['lost']} drops came faster than they were read)")
    for event in answer["events"]:
        click.echo(json.dumps(event) if output == "json" else line(event))


def line(event: dict[str, Any]) -> str:
    """One drop as a line of text."""
    if "error" in event:
        return str(event["error"])
    what = event["protocol"] or f"ethertype {event['ether_type']}"
    where = f"{event['program']} line {event['line']}, interface {event['ifindex']}"
    more = f", {event['suppressed']} more not shown" if event["suppressed"] else ""
    flow = f"{peer(event, 'source')} -> {peer(event, 'destination')}"
    return f"{clock(event['time'])} {event['reason_name']} ({event['reason']}) {what} {flow} ({where}{more})"


def peer(event: dict[str, Any], side: str) -> str:
    address, port = event[side] or "?", event[f"{side}_port"]
    return f"{address}:{port}" if port else address
