"""``podwire policy list|get|trace``."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from podwire.cli.client import AgentClient
from podwire.cli.output import output_option, print_facts, print_json, print_table

SHORT_KINDS = {
    "networkpolicy": "NetworkPolicy",
    "netpol": "NetworkPolicy",
    "knp": "NetworkPolicy",
    "ciliumnetworkpolicy": "CiliumNetworkPolicy",
    "cnp": "CiliumNetworkPolicy",
    "ciliumclusterwidenetworkpolicy": "CiliumClusterwideNetworkPolicy",
    "ccnp": "CiliumClusterwideNetworkPolicy",
}


@click.group()
def policy() -> None:
    """Show network policies, and why a connection is or is not allowed."""


@policy.command("list")
@click.option("-n", "--namespace", help="Only policies of this namespace.")
@output_option
@click.pass_obj
def list_policies(client: AgentClient, namespace: str | None, output: str) -> None:
    """List the policies of the cluster, whether they are valid, and whom they select on this node."""
    answer = client.get("/v1/policies")
    policies = [item for item in answer["policies"] if namespace in (None, item["namespace"])]
    if output == "json":
        print_json({**answer, "policies": policies})
        return
    if not answer["enabled"]:
        click.echo("this node enforces no network policies: it has no Kubernetes API (node_source: file)")
        return
    if not answer["synced"]:
        click.echo("not all policies are known yet: those of before stay in force")
    print_table(
        ["POLICY", "VALID", "GENERATION", "RULES", "SELECTS HERE", "STATUS"],
        [
            (
                item["key"],
                "yes" if item["valid"] else "no",
                generation(item),
                item["rules"],
                selected(item),
                item["status"],
            )
            for item in policies
        ],
    )
    mode = ", audit: what is refused passes" if answer["audit"] else ""
    click.echo(f"revision {answer['revision']}, enforcement {answer['enforcement']}{mode}")


@policy.command("get")
@click.argument("name", required=False)
@output_option
@click.pass_context
def get_policy(context: click.Context, name: str | None, output: str) -> None:
    """Show what a policy says and whom it selects on this node; without NAME all of them in short.

    NAME is KIND/NAMESPACE/NAME (kinds may be written cnp, ccnp, netpol), or a part of it from its end that is
    the only such one."""
    if name is None:
        context.invoke(list_policies, namespace=None, output=output)
        return
    client: AgentClient = context.obj
    key = find(client.get("/v1/policies")["policies"], name)
    value = client.get(f"/v1/policies/{quote(key)}")
    if output == "json":
        print_json(value)
        return
    show_policy(value)


def find(policies: list[dict[str, Any]], name: str) -> str:
    """The key of the policy that a user means. Raises ClickException when it is none or several."""
    kind, slash, rest = name.partition("/")
    wanted = f"{SHORT_KINDS.get(kind.lower(), kind)}{slash}{rest}" if slash else name
    found = [item["key"] for item in policies if item["key"] == wanted or item["key"].endswith(f"/{wanted}")]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise click.ClickException(f"{name} is not unique: {', '.join(sorted(found))}")
    raise click.ClickException(f"no policy {name}; see podwire policy list")


def show_policy(value: dict[str, Any]) -> None:
    """A policy for people: its head, and a table of what its rules say."""
    print_facts(
        [
            ("Policy", value["key"], None),
            ("Valid", "yes" if value["valid"] else "no", value["valid"]),
            *(("Error", text, False) for text in value["errors"]),
            *(("Warning", text, None) for text in value["warnings"]),
            ("Generation", generation(value), None),
            ("Selects here", ", ".join(value["subjects"]) or "no pod of this node", None),
        ]
    )
    for number, rule in enumerate(value["rules_in_force"]):
        closed = " and ".join(rule["default_deny"])
        print_facts(
            [
                (f"Rule {number}", rule["subject"], None),
                ("Closes", closed or "nothing: what no rule names stays allowed", None),
                *([("Log", rule["log"], None)] if rule["log"] else []),
            ]
        )
        print_table(
            ["PLACE", "DIRECTION", "VERDICT", "PEERS", "PORTS"],
            [
                (item["place"], item["direction"], item["verdict"], *peers_and_ports(item))
                for item in rule["entries"]
            ],
        )


def peers_and_ports(item: dict[str, Any]) -> tuple[str, str]:
    """Whom and what an entry of a rule names."""
    peers, ports = item["peers"], item["ports"]
    return (
        "everybody" if peers is None else "; ".join(peers) or "nobody",
        "all" if ports is None else ", ".join(ports) or "none",
    )


def generation(item: dict[str, Any]) -> str:
    """The object's generation, and the one in force where that is another."""
    now, in_force = item["generation"], item["in_force_generation"]
    if in_force == now:
        return str(now)
    return f"{now} ({f'{in_force} in force' if in_force is not None else 'nothing in force'})"


def selected(item: dict[str, Any], most: int = 3) -> str:
    """Some of the endpoints that a policy selects here, for a table."""
    shown = item["subjects"][:most]
    rest = len(item["subjects"]) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


@policy.command("trace")
@click.option("--src", "source", required=True, metavar="PEER", help="Who connects.")
@click.option("--dst", "destination", required=True, metavar="PEER", help="To whom.")
@click.option("--dport", metavar="PORT[/PROTOCOL]", default="", help="Destination port; ICMP: the type.")
@output_option
@click.pass_context
def trace(context: click.Context, source: str, destination: str, dport: str, output: str) -> None:
    """Tell whether a connection is allowed, by which rule, or why not.

    PEER is a pod (NAMESPACE/POD), an IPv4 address, an identity (identity:12345, reserved:world), or labels
    (app=web,k8s:io.kubernetes.pod.namespace=default). Only the policies of this node's pods are asked from
    the kernel's present ones; for other pods they are worked out. Exit status 1 when it is refused."""
    port, protocol = parse_port(dport)
    body = {
        "src": parse_peer(source), "dst": parse_peer(destination), "port": port, "protocol": protocol,
    }  # fmt: skip
    client: AgentClient = context.obj
    answer = client.post("/v1/policy/trace", body)
    if output == "json":
        print_json(answer)
    else:
        click.echo(answer["text"])
    if answer["verdict"] != "allowed":
        context.exit(1)


def parse_port(text: str) -> tuple[int, str]:
    """``80/TCP``, ``53/udp``, ``8/icmp``, ``80`` (TCP), ``icmp`` (type 8). Raises BadParameter."""
    number, _, protocol = text.partition("/")
    if not protocol and number.isalpha():
        number, protocol = "", number
    protocol = protocol.upper() or "TCP"
    if protocol not in ("TCP", "UDP", "SCTP", "ICMP"):
        raise click.BadParameter(f"{protocol} is none of TCP, UDP, SCTP, ICMP", param_hint="--dport")
    if not number and protocol == "ICMP":
        return 8, protocol
    if not number.isdecimal() or int(number) > 65535:
        raise click.BadParameter(f"{text!r} is no port, such as 80 or 53/UDP", param_hint="--dport")
    return int(number), protocol


def parse_peer(text: str) -> dict[str, Any]:
    """Which kind of peer a user wrote. Raises BadParameter."""
    if text.startswith("identity:"):
        number = text.removeprefix("identity:")
        if not number.isdecimal():
            raise click.BadParameter(f"{number!r} is no number of an identity")
        return {"identity": int(number)}
    if "=" in text or text.startswith("reserved:"):
        return {"labels": text}
    if text.count(".") == 3 and text.replace(".", "").isdecimal():
        return {"address": text}
    return {"pod": text if "/" in text else f"default/{text}"}
