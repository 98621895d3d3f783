"""What the commands ask of the machine: its name, its addresses, its services."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from .certs import IGNORED_DEVICES

SERVICES = (
    "containerd",
    "k8s-dqlite",
    "kubelite",
    "apiserver-proxy",
    "cluster-agent",
    "apiserver-kicker",
)


def hostname() -> str:
    """The node's name in Kubernetes: the host's, in lower case."""
    return socket.gethostname().lower()


def usable_addresses(links: Iterable[dict[str, Any]]) -> list[str]:
    """The IPv4 addresses worth having in a certificate, from the output of `ip -json -4 address`."""
    found = []
    for link in links:
        if link.get("ifname") in IGNORED_DEVICES:
            continue
        for entry in link.get("addr_info", ()):
            address = ipaddress.ip_address(entry["local"])
            if not address.is_loopback and not address.is_link_local:
                found.append(str(address))
    return found


def addresses() -> list[str]:
    """The node's own IPv4 addresses, the one towards the default route first."""
    listed = subprocess.run(
        ["ip", "-json", "-4", "address"], capture_output=True, check=True, text=True
    ).stdout
    found = usable_addresses(json.loads(listed or "[]"))
    default = default_address()
    return sorted(found, key=lambda address: address != default)


def default_address() -> str | None:
    """The source address towards the default route; None without one. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def unit(service: str) -> str:
    return f"snap.microk8s.daemon-{service}.service"


def systemctl(action: str, *services: str, wait: bool = True) -> None:
    """Act on daemons of the snap, named without their prefix. A failure is reported and does not raise."""
    command = ["systemctl", action, *([] if wait else ["--no-block"]), *(unit(name) for name in services)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)


def is_active(service: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", unit(service)], check=False).returncode == 0
