"""ssh keys of a lab: one for us, one per node, and the files that make both ends trust each other."""

from __future__ import annotations

from pathlib import Path

from lab.config import Lab
from lab.process import run


def ensure(lab: Lab) -> None:
    """Make what is missing: our key, the nodes' host keys, known_hosts and ssh_config."""
    lab.state.mkdir(mode=0o700, exist_ok=True)
    ours = _key(lab.state / "ssh_key", f"podwire-lab-{lab.name}")
    known = []
    for node in lab.nodes:
        folder = lab.state / "nodes" / node
        folder.mkdir(parents=True, exist_ok=True)
        host = _key(folder / "ssh_host_ed25519_key", node)
        known.append(f"{node},{lab.address(node)} {' '.join(host.split()[:2])}")
        (folder / "authorized_keys").write_text(ours)
        (folder / "hosts").write_text(hosts_file(lab, node))
    (lab.state / "known_hosts").write_text("\n".join(known) + "\n")
    (lab.state / "ssh_config").write_text(ssh_config(lab))


def _key(path: Path, comment: str) -> str:
    public = path.with_name(f"{path.name}.pub")
    if not (path.exists() and public.exists()):
        path.unlink(missing_ok=True)
        run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path],
            what="making an ssh key",
        )
    return public.read_text()


def hosts_file(lab: Lab, node: str) -> str:
    """Contents of /etc/hosts on a node. Pure."""
    others = "".join(f"{lab.address(name)} {name}\n" for name in lab.members if name != node)
    return f"127.0.0.1 localhost\n127.0.1.1 {node}\n{others}"


def ssh_config(lab: Lab) -> str:
    """Contents of a configuration for ``ssh -F``. Pure."""
    hosts = "".join(f"Host {node}\n    HostName {lab.address(node)}\n" for node in lab.nodes)
    common = {
        "User": "root",
        "IdentityFile": lab.state / "ssh_key",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": lab.state / "known_hosts",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "15",
        "LogLevel": "ERROR",
    }
    return hosts + "Host *\n" + "".join(f"    {key} {value}\n" for key, value in common.items())
