"""``podwire monitor``."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from typing import Any

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import clock, output_option, print_json

NAMESPACE = "io.kubernetes.pod.namespace="
WAIT = 20
"""Seconds one question waits for news; the next one follows at once."""
SHORT_WAIT = 0.2
"""The same where several kinds are asked one after the other."""
DROP, VERDICT, TRANSLATE = "drop", "policy-verdict", "translate"
_PATHS = {DROP: "/v1/drops", VERDICT: "/v1/verdicts", TRANSLATE: "/v1/translations"}
_COLOURS = {"allowed": "green", "denied": "red", "audited": "yellow"}
"""On a terminal; elsewhere click takes colours out."""
_NOUNS = {DROP: "drops", VERDICT: "verdicts", TRANSLATE: "translations"}


def parse_kinds(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """The kinds of events that a user named, by commas or by naming the option again."""
    kinds = tuple(dict.fromkeys(kind.strip() for item in value for kind in item.split(",")))
    for kind in kinds:
        if kind not in _PATHS:
            raise click.BadParameter(f"{kind!r} is none of {', '.join(_PATHS)}")
    return kinds


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on and print events as they happen.")
@click.option(
    "-n", "--last", default=20, show_default=True, metavar="N", help="How many recent events to begin with."
)
@click.option(
    "-t",
    "--type",
    "kinds",
    multiple=True,
    default=(DROP,),
    show_default=True,
    metavar="KIND[,KIND]",
    callback=parse_kinds,
    help="drop (dropped packets), policy-verdict (what policies decided about new connections), translate "
    "(new connections to services).",
)
@output_option
@click.pass_obj
def monitor(client: AgentClient, follow: bool, last: int, kinds: tuple[str, ...], output: str) -> None:
    """Show dropped packets, verdicts of policies or translated connections, recent or as they happen.

    JSON with --follow is one object per line; where several kinds are asked for, each object has its kind in
    the member "type"."""
    answers = {kind: ask(client, kind, limit=max(last, 1)) for kind in kinds}
    if last <= 0:
        answers = {kind: {**answer, "events": []} for kind, answer in answers.items()}
    if output == "json" and not follow:
        print_json([event for kind, event in in_order(answers)][-last:])
        return
    show(answers, output, last)
    wait = WAIT if len(kinds) == 1 else SHORT_WAIT
    while follow:
        answers = {
            kind: ask(client, kind, since=answer["last"], limit=1000, wait=wait)
            for kind, answer in answers.items()
        }
        show(answers, output)


def ask(client: AgentClient, kind: str, **query: float) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"{_PATHS[kind]}?{urllib.parse.urlencode(query)}")
    return answer


def in_order(answers: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Events of all kinds in the order of time, each with its kind."""
    several = len(answers) > 1
    events = [
        (kind, {"type": kind, **event} if several else event)
        for kind, answer in answers.items()
        for event in answer["events"]
    ]
    return sorted(events, key=lambda item: item[1].get("time", 0.0)) if several else events


def show(answers: dict[str, dict[str, Any]], output: str, most: int | None = None) -> None:
    """Print events, the last ``most`` of them."""
    for kind, answer in answers.items():
        if output == "table" and answer["lost"]:
            click.echo(f"({answer['lost']} {_NOUNS[kind]} came faster than they were read)")
    events = in_order(answers)
    for kind, event in events[-most:] if most else events:
        click.echo(json.dumps(event) if output == "json" else line(event, kind))


def line(event: dict[str, Any], kind: str = DROP) -> str:
    """One event as a line of text."""
    if "error" in event:
        return str(event["error"])
    more = f", {event['suppressed']} more not shown" if event["suppressed"] else ""
    text = {DROP: drop, VERDICT: verdict, TRANSLATE: translation}[kind](event)
    return f"{clock(event['time'])} {text}{more})"


def drop(event: dict[str, Any]) -> str:
    """A dropped packet: reason, flow, and who dropped it; the parenthesis is left open."""
    what = event["protocol"] or f"ethertype {event['ether_type']}"
    where = f"{event['program']} line {event['line']}, interface {event['ifindex']}"
    flow = f"{judged(event, 'source')} -> {judged(event, 'destination')}"
    rule = f"; {event['rule']}" if event.get("rule") else ""
    return f"{event['reason_name']} ({event['reason']}) {what} {flow}{rule} ({where}"


def verdict(event: dict[str, Any]) -> str:
    """What a policy decided about a packet that may open a connection: as Cilium's monitor says it, with the
    rule; the parenthesis is left open."""
    flow = f"{judged(event, 'source')} -> {judged(event, 'destination')}"
    reason = f" {event['reason_name']} ({event['reason']})" if event["reason"] else ""
    rule = event["rule"] or "no rule names it"
    word = click.style(event["verdict"].upper(), fg=_COLOURS.get(event["verdict"]))
    head = f"{event['direction']} {word} {event['match']}{reason}"
    return f"{head} {event['protocol']} {flow}; {rule} ({event['program']}, interface {event['ifindex']}"


def judged(event: dict[str, Any], side: str) -> str:
    """A peer with its identity, where a policy judged it."""
    identity = event.get(f"{side}_identity")
    if not identity:
        return peer(event, side)
    return f"{peer(event, side)} [{identity}{naming(event.get(f'{side}_labels') or ())}]"


def naming(labels: Sequence[str]) -> str:
    """The labels that a user gave, or what an identity is by its number; the rest follows from them."""
    own = [
        label.removeprefix("k8s:").removeprefix("reserved:")
        for label in labels
        if not label.startswith("k8s:io.cilium.")
    ]
    namespace = [label.rpartition("=")[2] for label in own if label.startswith(NAMESPACE)]
    others = [label for label in own if not label.startswith(NAMESPACE)]
    return "".join(f" {text}" for text in (*namespace, ",".join(others)) if text)


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
