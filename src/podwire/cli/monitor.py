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
DROP, TRANSLATE = "drop", "translate"
_PATHS = {DROP: "/v1/drops", TRANSLATE: "/v1/translations"}
_NOUNS = {DROP: "drops", TRANSLATE: "translations"}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on and print events as they happen.")
@click.option(
    "-n", "--last", default=20, show_default=True, metavar="N", help="How many recent events to begin with."
)
@click.option(
    "-t",
    "--type",
    "kind",
    type=click.Choice([DROP, TRANSLATE]),
    default=DROP,
    show_default=True,
    help="Dropped packets, or new connections to services.",
)
@output_option
@click.pass_obj
def monitor(client: AgentClient, follow: bool, last: int, kind: str, output: str) -> None:
    """Show dropped packets or translated connections, recent or as they happen.

    JSON with --follow is one object per line."""
    answer = ask(client, kind, limit=last) if last > 0 else {**ask(client, kind, limit=1), "events": []}
    if output == "json" and not follow:
        print_json(answer["events"])
        return
    show(answer, kind, output)
    while follow:
        answer = ask(client, kind, since=answer["last"], limit=1000, wait=WAIT)
        show(answer, kind, output)


def ask(client: AgentClient, kind: str, **query: int) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"{_PATHS[kind]}?{urllib.parse.urlencode(query)}")
    return answer


def show(answer: dict[str, Any], kind: str, output: str) -> None:
    if output == "table" and answer["lost"]:
        click.echo(f"({answer['lost']} {_NOUNS[kind]} came faster than they were read)")
    for event in answer["events"]:
        click.echo(json.dumps(event) if output == "json" else line(event, kind))


def line(event: dict[str, Any], kind: str = DROP) -> str:
    """One event as a line of text."""
    if "error" in event:
        return str(event["error"])
    more = f", {event['suppressed']} more not shown" if event["suppressed"] else ""
    text = drop(event) if kind == DROP else translation(event)
    return f"{clock(event['time'])} {text}{more})"


def drop(event: dict[str, Any]) -> str:
    """A dropped packet: reason, flow, and who dropped it; the parenthesis is left open."""
    what = event["protocol"] or f"ethertype {event['ether_type']}"
    where = f"{event['program']} line {event['line']}, interface {event['ifindex']}"
    flow = f"{peer(event, 'source')} -> {peer(event, 'destination')}"
    return f"{event['reason_name']} ({event['reason']}) {what} {flow} ({where}"


def translation(event: dict[str, Any]) -> str:
    """A new connection to a service: what the client asked for, and what it got; the parenthesis is left
    open."""
    service = event["service"] or f"service {event['service_id']}"
    got = peer(event, "new_destination")
    if (event["new_source"], event["new_source_port"]) != (event["source"], event["source_port"]):
        got += f" from {peer(event, 'new_source')}"
    where = f"{event['program']}, interface {event['ifindex']}" if event["ifindex"] else event["program"]
    flow = f"{peer(event, 'source')} -> {peer(event, 'destination')} => {got}"
    return f"{service} {event['protocol']} {flow} ({where}"


def peer(event: dict[str, Any], side: str) -> str:
    address, port = event[side] or "?", event[f"{side}_port"]
    return f"{address}:{port}" if port else address
