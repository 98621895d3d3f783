"""Bring the lab's machines up: containers, cables, keys; resume what an earlier run left."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

from lab import containers, keys, underlay
from lab.config import LABEL, WORLD, Lab
from lab.containers import Container
from lab.errors import LabError
from lab.process import Log, run

BOOT_SECONDS = 60
SHUTDOWN_SECONDS = 60


def start(lab: Lab, image: str, log: Log) -> None:
    """Make every member of the lab run and be reachable by ssh. Idempotent."""
    keys.ensure(lab)
    existing = {item.labels.get(f"{LABEL}.member", ""): item for item in containers.find(lab.name)}
    extra = [name for name in existing if name not in lab.members]
    if extra:
        raise LabError(
            f"lab {lab.name} has more nodes than were asked for: {', '.join(sorted(extra))}",
            "Keep the number with which it was made, or run make down first",
        )
    reason = unusable(lab, existing, image)
    if reason:
        log(f"starting over with new nodes: {reason}")
        containers.remove_all(lab.name)
        existing = {}
    for member, container in existing.items():
        if not container.alive:
            log(f"switching {member} on again")
            if not containers.start_again(container):
                log(f"{member} cannot be started: starting over with new nodes")
                containers.remove_all(lab.name)
                existing = {}
                break
    missing = [member for member in lab.members if member not in existing]
    if missing:
        log(f"starting {', '.join(missing)}")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda member: containers.create(lab, member, image), missing))
    for member in lab.members:
        underlay.attach(lab, member, containers.alive(lab, member).pid)
    for node in lab.nodes:
        introduce(lab, node)
    log("waiting for ssh")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda node: wait_for_ssh(lab, node), lab.nodes))


def reboot(lab: Lab, node: str) -> None:
    """Let a node shut down by itself, switch it on again, and return when ssh answers.

    What a reboot loses is lost: processes, /run, links, network namespaces, BPF programs and their pins.
    """
    container = containers.alive(lab, node)
    ssh(lab, node, ["systemctl", "reboot"], check=False)  # the connection may end before the command does
    deadline = time.monotonic() + SHUTDOWN_SECONDS
    while any(item.alive for item in containers.find(lab.name) if item.id == container.id):
        if time.monotonic() > deadline:
            raise LabError(
                f"node {node} has not shut down within {SHUTDOWN_SECONDS} s",
                f"See `podman exec {container.name} systemctl list-jobs`",
            )
        time.sleep(0.2)
    if not containers.start_again(container):
        raise LabError(
            f"node {node} does not start again", f"See `podman logs {container.name}`; run make up"
        )
    underlay.attach(lab, node, containers.alive(lab, node).pid)
    introduce(lab, node)
    wait_for_ssh(lab, node)


def introduce(lab: Lab, node: str) -> None:
    """Tell a node the names of members that came after it."""
    path = Path(f"/proc/{containers.alive(lab, node).pid}/root/etc/hosts")
    known = path.read_text().splitlines() if path.exists() else []
    new = [line for line in keys.hosts_file(lab, node).splitlines() if line not in known]
    if known and new:  # without the file the node is about to make it itself
        path.write_text("\n".join([*known, *new]) + "\n")


def unusable(lab: Lab, existing: dict[str, Container], image: str) -> str:
    """Why the containers that exist cannot be carried on with; empty when they can."""
    nodes = [container for member, container in existing.items() if member != WORLD]
    if nodes and not all(name in existing for name in lab.control_plane):
        return "the control plane node is gone"
    for container in nodes:
        if container.labels.get(f"{LABEL}.image") != image:
            return "the node image has changed"
        if container.alive and not _has_our_keys(lab, container):
            return f"{container.name} knows other ssh keys than {lab.state}"
    return ""


def _has_our_keys(lab: Lab, container: Container) -> bool:
    member = container.labels[f"{LABEL}.member"]
    inside = f"/proc/{container.pid}/root/etc/podwire-lab/authorized_keys"
    shown = run(["cat", inside], check=False)
    ours = (lab.state / "nodes" / member / "authorized_keys").read_text()
    return shown.returncode == 0 and shown.stdout == ours


def wait_for_ssh(lab: Lab, node: str) -> None:
    """Return when a command runs on the node over ssh; ``LabError`` after a minute."""
    deadline = time.monotonic() + BOOT_SECONDS
    answer = "no answer"
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((lab.address(node), 22), timeout=2) as connection:
                connection.settimeout(5)
                if connection.recv(4) == b"SSH-":
                    result = ssh(lab, node, ["true"], check=False)
                    if result.returncode == 0:
                        return
                    answer = result.stderr.strip()
        except OSError as error:
            answer = str(error)
        time.sleep(0.1)
    raise LabError(
        f"node {node} ({lab.address(node)}) cannot be reached by ssh: {answer}",
        f"See `podman exec {lab.container(node)} systemctl status ssh`",
    )


def ssh(
    lab: Lab, node: str, command: Sequence[str], *, check: bool = True, timeout: float = 60
) -> CompletedProcess[str]:
    """Run a command on a node. The words are joined by spaces for its shell."""
    return run(
        ["ssh", "-F", lab.state / "ssh_config", node, "--", *command],
        what=f"a command on {node}",
        check=check,
        timeout=timeout,
    )
