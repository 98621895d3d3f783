"""The commands of `microk8s`, and the internal ones that services and hooks call."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import (
    agent,
    api,
    argsfile,
    certs,
    containers,
    files,
    hooks,
    host,
    inspection,
    join,
    kicker,
    kubeconfig,
    kubelite,
    status,
    tokens,
)
from .layout import Layout

WORKER_SENTENCE = (
    "This MicroK8s deployment is acting as a node in a cluster.\n"
    "Please use the control plane nodes to call {}."
)
COMMANDS = "add-node config ctr inspect join kubectl leave remove-node start status stop version"

Command = Callable[[Layout, Sequence[str]], int]


def main(arguments: Sequence[str]) -> int:
    """Dispatch; returns the exit code."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("help", ())
    if name in ("help", "--help", "-h"):
        print(f"Available subcommands are:\n\t{COMMANDS}".replace(" ", "\n\t"))
        return 0
    layout = Layout.from_environment()
    command = PUBLIC.get(name) or INTERNAL.get(name)
    if command is None:
        plugin = layout.common / "plugins" / name
        if plugin.is_file() and os.access(plugin, os.X_OK):
            os.execv(plugin, [str(plugin), *rest])  # noqa: S606
        print(f"'{name}' is not a valid MicroK8s subcommand; it knows: {COMMANDS}", file=sys.stderr)
        return 1
    if name in PUBLIC and not _permitted(layout):
        print(
            "Insufficient permissions: use sudo, or join the group microk8s.",
            file=sys.stderr,
        )
        return 1
    return command(layout, rest)


def _permitted(layout: Layout) -> bool:
    return os.access(layout.credential("client.config"), os.R_OK)


def _refused_on_worker(layout: Layout, name: str) -> bool:
    """Workers answer most commands with a sentence, and scripts that look at the exit code believe them."""
    if layout.is_worker:
        print(WORKER_SENTENCE.format(f"'microk8s {name}'"))
        return True
    return False


def status_command(layout: Layout, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="microk8s status")
    parser.add_argument("--format", default="pretty", choices=["pretty", "yaml", "short"])
    parser.add_argument("-w", "--wait-ready", action="store_true")
    parser.add_argument("-t", "--timeout", type=int, default=0, help="seconds; 0 waits forever")
    parser.add_argument("-a", "--addon", default="")
    parser.add_argument("--yaml", action="store_true", help="deprecated, use --format yaml")
    options = parser.parse_args(arguments)
    if _refused_on_worker(layout, "status"):
        return 0
    if layout.locked("stopped.lock"):
        print("microk8s is stopped. Use microk8s start.")
        return 0
    running = status.wait_ready(layout, options.timeout) if options.wait_ready else status.is_ready(layout)
    if options.addon:
        print("disabled")
        return 0
    text = status.render(status.gather(layout, running), "yaml" if options.yaml else options.format)
    if text:
        print(text)
    return 0 if running else 1


def add_node(layout: Layout, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="microk8s add-node")
    parser.add_argument("-t", "--token", default="")
    parser.add_argument("-l", "--token-ttl", type=int, default=-1, help="seconds; else good for one join")
    parser.add_argument(
        "--format", default="pretty", choices=["pretty", "short", "token", "token-check", "json", "yaml"]
    )
    options = parser.parse_args(arguments)
    if _refused_on_worker(layout, "add-node"):
        return 1
    token = options.token or tokens.create()
    try:
        tokens.store(layout, token, options.token_ttl)
    except tokens.TokenError as error:
        print(error, file=sys.stderr)
        return 1
    check = certs.fingerprint(layout.cert("server.crt").read_text())[: join.CHECK_LENGTH]
    print(invitation(token, check, host.addresses(), options.format))
    return 0


def invitation(token: str, check: str, addresses: Sequence[str], form: str) -> str:
    """How add-node tells what to type on the joining node."""
    full = f"{token}/{check}"
    urls = [f"{address}:{agent.PORT}/{full}" for address in addresses]
    if form == "token":
        return token
    if form == "token-check":
        return full
    if form == "json":
        return json.dumps({"token": full, "urls": urls})
    if form == "yaml":
        return "\n".join([f"token: {full}", "urls:", *(f"- {url}" for url in urls)])
    lines = [f"microk8s join {url}" for url in urls]
    if form == "short":
        return "\n".join(lines)
    return "\n".join(
        [
            "From the node you wish to join to this cluster, run the following:",
            f"{lines[0]} --worker" if lines else "",
            "",
            "If the node is not reachable through the default interface, use one of the following:",
            *lines,
        ]
    )


def join_command(layout: Layout, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="microk8s join")
    parser.add_argument("url")
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--controlplane", action="store_true")
    parser.add_argument("--skip-verify", action="store_true")
    parser.add_argument("--disable-low-memory-guard", action="store_true")
    options = parser.parse_args(arguments)
    try:
        target = join.parse_target(options.url)
        if not options.worker:
            raise join.JoinError(
                join.EXIT_INPUT, "the datastore of this snap has one member: join with --worker"
            )
        join.join_worker(layout, target, verify=not options.skip_verify)
    except join.JoinError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("The node has joined the cluster and will appear in the nodes list in a few seconds.")
    return 0


def leave_command(layout: Layout, arguments: Sequence[str]) -> int:
    argparse.ArgumentParser(prog="microk8s leave").parse_args(arguments)
    try:
        join.leave(layout)
    except join.JoinError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print("This node runs a cluster of its own again. Run microk8s remove-node on the cluster it has left.")
    return 0


def remove_node(layout: Layout, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="microk8s remove-node")
    parser.add_argument("node", help="name or address")
    parser.add_argument("-f", "--force", action="store_true")
    options = parser.parse_args(arguments)
    if _refused_on_worker(layout, "remove-node"):
        return 1
    try:
        name = _find_node(layout, options.node)
        if name is None:
            print(f"Node {options.node} does not exist.", file=sys.stderr)
            return 1
        if name == host.hostname():
            print(
                "This node keeps the datastore: it cannot be removed from its own cluster.", file=sys.stderr
            )
            return 1
        api.request(layout, f"/api/v1/nodes/{name}", method="DELETE")
    except api.ApiError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _find_node(layout: Layout, wanted: str) -> str | None:
    for node in api.nodes(layout):
        addresses = [entry["address"] for entry in node.get("status", {}).get("addresses", ())]
        if wanted == node["metadata"]["name"] or wanted in addresses:
            return str(node["metadata"]["name"])
    return None


def expand(layout: Layout, component: str) -> list[str]:
    """The arguments in an args file, with ${SNAP...} replaced."""
    words = files.read(layout.args(component)).split()
    for name, value in layout.environment.items():
        words = [re.sub(rf"\$(\{{{name}\}}|{name}\b)", value, word) for word in words]
    return words


def _exec(program: Path, arguments: Sequence[str]) -> int:
    os.execv(program, [str(program), *arguments])  # noqa: S606


def kubectl(layout: Layout, arguments: Sequence[str]) -> int:
    if _refused_on_worker(layout, "kubectl"):
        return 0
    return _exec(layout.snap / "kubectl", [*expand(layout, "kubectl"), *arguments])


def ctr(layout: Layout, arguments: Sequence[str]) -> int:
    return _exec(layout.snap / "bin" / "ctr", [*expand(layout, "ctr"), *arguments])


def config(layout: Layout, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="microk8s config")
    parser.add_argument("-l", "--use-loopback", action="store_true")
    options = parser.parse_args(arguments)
    if _refused_on_worker(layout, "config"):
        return 0
    text = files.read(layout.credential("client.config"))
    addresses = host.addresses()
    if addresses and not options.use_loopback:
        text = kubeconfig.with_server(text, f"https://{addresses[0]}:16443")
    print(text, end="")
    return 0


def start(layout: Layout, arguments: Sequence[str]) -> int:
    if _refused_on_worker(layout, "start"):
        return 0
    layout.set_lock("stopped.lock", False)
    host.systemctl("enable", *host.SERVICES)
    host.systemctl("start", *host.SERVICES)
    return 0


def stop(layout: Layout, arguments: Sequence[str]) -> int:
    if _refused_on_worker(layout, "stop"):
        return 0
    layout.set_lock("stopped.lock")
    others = [name for name in host.SERVICES if name != "containerd"]
    host.systemctl("stop", *others)
    containers.delete_all(layout)
    host.systemctl("stop", "containerd")
    host.systemctl("disable", *host.SERVICES)
    print("Stopped.")
    return 0


def version(layout: Layout, arguments: Sequence[str]) -> int:
    text = files.read(layout.snap / "meta" / "snap.yaml")
    found = re.search(r"(?m)^version:\s*['\"]?([^'\"\s]+)", text)
    print(f"MicroK8s {found.group(1) if found else 'unknown'} revision {layout.revision}")
    return 0


def inspect(layout: Layout, arguments: Sequence[str]) -> int:
    if os.geteuid() != 0:
        print("inspect reads logs: run it as root", file=sys.stderr)
        return 1
    return inspection.run(layout)


def cluster_agent(layout: Layout, arguments: Sequence[str]) -> int:
    text = "\n".join(arguments)
    values = {flag: argsfile.get(text, flag) for flag in ("--bind", "--certfile", "--keyfile")}
    return agent.run(
        layout,
        values["--bind"] or f"0.0.0.0:{agent.PORT}",
        values["--certfile"] or str(layout.cert("server.crt")),
        values["--keyfile"] or str(layout.cert("server.key")),
    )


def prepare_kubelite(layout: Layout, arguments: Sequence[str]) -> int:
    kubelite.prepare(layout)
    return 0


PUBLIC: dict[str, Command] = {
    "add-node": add_node,
    "config": config,
    "ctr": ctr,
    "inspect": inspect,
    "join": join_command,
    "kubectl": kubectl,
    "leave": leave_command,
    "remove-node": remove_node,
    "start": start,
    "status": status_command,
    "stop": stop,
    "version": version,
}
INTERNAL: dict[str, Command] = {
    "apiserver-kicker": lambda layout, arguments: kicker.run(layout),
    "cluster-agent": cluster_agent,
    "hook-configure": lambda layout, arguments: hooks.configure(layout),
    "hook-install": lambda layout, arguments: hooks.install(layout),
    "hook-post-refresh": lambda layout, arguments: hooks.post_refresh(layout),
    "hook-remove": lambda layout, arguments: hooks.remove(layout),
    "prepare-kubelite": prepare_kubelite,
}
