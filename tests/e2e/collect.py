"""Keep what a person would ask for first when a lab test fails: ``python -m tests.e2e.collect DIRECTORY``."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import nodes, up
from lab.config import DEFAULT_NAME, Lab

COMMANDS = {
    "agent-journal": "journalctl -u podwire-agent --no-pager -n 2000",
    "kubelite-journal": "journalctl -u snap.microk8s.daemon-kubelite --no-pager -n 500",
    "containerd-journal": "journalctl -u snap.microk8s.daemon-containerd --no-pager -n 500",
    "status": "podwire status -o json",
    "endpoints": "podwire endpoint list -o json",
    "drops": "podwire bpf metrics list -o json",
    "conntrack": "podwire bpf ct list -o json",
    "datapath": "podwire datapath status --entries -o json",
    "links-routes-rules": "ip -d link; ip addr; ip route show table all; ip rule; ip neigh",
    "netfilter": "nft list ruleset; iptables-save",
    "cni": "ls -lR /var/snap/microk8s/current/args/cni-network /var/snap/microk8s/current/opt/cni/bin",
    "processes": "ps axfu",
}
CLUSTER = {
    "objects": "get nodes,pods,services,endpoints -A -o wide",
    "events": "get events -A --sort-by=.lastTimestamp",
}


def collect(lab: Lab, directory: Path) -> Path:
    """Write one file per node and question below ``directory``; what a node cannot answer, its file says."""
    folder = directory / f"{lab.name}-{time.strftime('%H%M%S')}"

    def ask(node: str) -> None:
        (folder / node).mkdir(parents=True, exist_ok=True)
        for name, command in COMMANDS.items():
            done = nodes.ssh(lab, node, [command], check=False, timeout=60)
            (folder / node / f"{name}.txt").write_text(done.stdout + done.stderr)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, lab.nodes))
    for name, words in CLUSTER.items():
        done = nodes.ssh(
            lab, lab.control_plane[0], [f"/snap/bin/microk8s kubectl {words}"], check=False, timeout=60
        )
        (folder / f"{name}.txt").write_text(done.stdout + done.stderr)
    return folder


if __name__ == "__main__":
    print(collect(up.existing(os.environ.get("LAB") or DEFAULT_NAME), Path(sys.argv[1])))
