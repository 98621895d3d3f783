# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""MicroK8s' own commands for making a cluster of nodes: what they are called with, and what their exit codes
mean.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Sequence

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import clean_environment
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout

_URL = re.compile(r"(?P<address>[^/:]+):(?P<port>\d+)/(?P<token>[^/\s]{32,})(/(?P<check>[^/\s]{12,}))?")
_JOIN_HINTS = {
    1: "Check the URL: a literal IPv4 address, port 25000, a fresh token.",
    4: "The contacted node has another certificate than the URL says (it was reissued meanwhile): "
    "make a new token.",
    5: "Open port 25000/tcp from this node to the contacted one, and check that its cluster agent runs "
    "(journalctl -u snap.microk8s.daemon-cluster-agent).",
    6: "The contacted node refused: a token that was used or has expired (make a new one), the node's own "
    "address, or a node "
    "that is still known there (microk8s remove-node NAME --force on a control plane).",
}


class CommandError(PodwireError):
    """A MicroK8s command failed."""


def run_microk8s(
    layout: Layout, arguments: Sequence[str], *, timeout: float, secret: str | None = None
) -> tuple[int, str]:
    """Run ``microk8s ...``; return its exit code and all of its output, without the secret."""
    if not layout.command.exists():
        raise CommandError(f"{layout.command} does not exist", "Run the module podwire.ebpf.microk8s first.")
    try:
        done = subprocess.run(
            [str(layout.command), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(timeout, 1.0),
            check=False,
            env=clean_environment(os.environ),
        )
    except subprocess.TimeoutExpired as error:
        seen = f"{_text(error.stdout)}{_text(error.stderr)}".strip()[-300:]
        raise CommandError(
            f"microk8s {arguments[0]} did not end in the time allowed"
            + (f"; so far it said: {hide(seen, secret)}" if seen else ""),
            "Look at microk8s inspect on this node, then run again.",
        ) from error
    return done.returncode, hide(f"{done.stdout}{done.stderr}".strip(), secret)


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def hide(text: str, secret: str | None) -> str:
    """The text without the join URL and without the token in it."""
    if not secret:
        return text
    for part in sorted({secret, *secret.split("/")[1:]}, key=len, reverse=True):
        if len(part) >= 12:
            text = text.replace(part, "********")
    return text


def add_node(layout: Layout, *, ttl: int | None, timeout: float) -> list[str]:
    """Make a token on a control plane and return the URLs that ``join`` takes, one for each of its
    addresses.
    """
    lifetime = [] if ttl is None else ["--token-ttl", str(ttl)]
    code, text = run_microk8s(layout, ["add-node", *lifetime, "--format", "json"], timeout=timeout)
    try:
        answer = json.loads(text[text.index("{") : text.rindex("}") + 1])
        urls = [str(url) for url in answer["urls"]]
    except (ValueError, KeyError, TypeError):
        urls = []
    if code or not urls:
        raise CommandError(
            f"microk8s add-node ended with exit status {code} and made no token"
            + ("" if urls else f": {text[-300:]}"),
            "Run it on a control plane that is ready.",
        )
    return urls


def pick_url(urls: Sequence[str], address: str | None, prefer: str | None = None) -> str:
    """The URL of a given address of the control plane; else of the preferred one if it has that, else the
    first IPv4 one.
    """
    usable = [url for url in urls if _URL.fullmatch(url) and _is_ipv4(url.split(":")[0])]
    if address is not None:
        for url in usable:
            if url.split(":")[0] == address:
                return url
        known = ", ".join(url.split(":")[0] for url in usable)
        raise CommandError(
            f"The control plane has no address {address}; it has {known or 'none'}", "Correct the address."
        )
    if not usable:
        raise CommandError("The control plane has no IPv4 address that a node could join by", "Give it one.")
    return next((url for url in usable if url.split(":")[0] == prefer), usable[0])


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def check_url(url: str) -> str:
    """The address in a join URL; refuses what ``join`` would take and choke on."""
    match = _URL.fullmatch(url)
    if not match or not _is_ipv4(match["address"]):
        raise CommandError(
            "The join URL is not of the form IPV4:25000/TOKEN/CHECK",
            "Take the one that the module podwire.ebpf.microk8s_token returns.",
        )
    return str(match["address"])


def join(layout: Layout, url: str, *, worker: bool, timeout: float) -> str:
    """Join; return what the command said. The URL is in the command's arguments because MicroK8s reads it
    nowhere else.
    """
    check_url(url)
    role = ["--worker"] if worker else []
    code, text = run_microk8s(layout, ["join", url, *role], timeout=timeout, secret=url)
    if code:
        raise CommandError(
            f"microk8s join ended with exit status {code}: {text[-500:]}",
            _JOIN_HINTS.get(code, "Look at microk8s inspect on this node."),
        )
    return text


def leave(layout: Layout, *, timeout: float) -> str:
    """Leave the cluster; the node is a control plane of its own afterwards."""
    code, text = run_microk8s(layout, ["leave"], timeout=timeout)
    if code:
        hint = (
            "It is the only voter of its cluster: let another control plane join first."
            if code == 3
            else "Look at microk8s inspect on this node."
        )
        raise CommandError(f"microk8s leave ended with exit status {code}: {text[-500:]}", hint)
    return text


def remove_node(layout: Layout, name: str, *, force: bool, timeout: float) -> None:
    """Make the cluster forget a node that has left."""
    code, text = run_microk8s(layout, ["remove-node", name, *(["--force"] if force else [])], timeout=timeout)
    if code:
        raise CommandError(
            f"microk8s remove-node {name} ended with exit status {code}: {text[-500:]}",
            "Let the node leave first (module podwire.ebpf.microk8s_join, state left), or set force: true "
            "for one that is lost.",
        )
