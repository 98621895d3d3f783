"""The default pod network: its manifest in the CNI directory, and the traces it leaves on a host."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from . import files
from .layout import Layout

COMMENT = "generated for MicroK8s pods"
FORWARDING = ("net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding")
OWN_LINKS = ("vxlan.calico", "cni0", "cilium_host", "cilium_vxlan")


class NetworkError(Exception):
    """The default network could not be applied; the message holds kubectl's words."""


def link_plugins(layout: Layout, code: Path) -> None:
    """(Re)create the links to the bundled CNI plugins; other names in the directory survive."""
    layout.cni_bin_dir.mkdir(parents=True, exist_ok=True)
    for plugin in sorted((layout.snap / "opt" / "cni" / "bin").iterdir()):
        link = layout.cni_bin_dir / plugin.name
        temporary = layout.cni_bin_dir / f".{plugin.name}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(code / "opt" / "cni" / "bin" / plugin.name)
        temporary.rename(link)


def install_manifest(layout: Layout) -> None:
    """Put the bundled manifest where the kicker looks for it."""
    files.write(layout.cni_manifest, (layout.snap / "actions" / "cni.yaml").read_text())


def wanted(layout: Layout) -> bool:
    """Should the kicker apply the default network?"""
    return layout.cni_manifest.exists() and layout.locked("ha-cluster") and not layout.locked("cni-loaded")


def apply(layout: Layout) -> None:
    """kubectl apply the manifest. Raises NetworkError."""
    done = subprocess.run(
        [str(layout.snap / "kubectl"), f"--kubeconfig={layout.credential('client.config')}", "apply",
         "-f", str(layout.cni_manifest)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise NetworkError(f"cannot apply {layout.cni_manifest}: {done.stderr.strip()}")


def _run(command: str) -> bool:
    return subprocess.run(shlex.split(command), check=False, capture_output=True).returncode == 0


def allow_forwarding(cluster_cidr: str) -> None:
    """Append ACCEPT rules for the pods to FORWARD, in both flavours of iptables, where they are missing."""
    for tool in ("/usr/sbin/iptables-nft", "iptables"):
        for side in ("-s", "-d"):
            rule = f"FORWARD {side} {cluster_cidr} -m comment --comment '{COMMENT}' -j ACCEPT"
            if not _run(f"{tool} -w -C {rule}") and not _run(f"{tool} -w -A {rule}"):
                print(f"{tool}: cannot append to FORWARD: {rule}", file=sys.stderr)


def forbid_forwarding(cluster_cidr: str) -> None:
    """Take back what allow_forwarding appended."""
    for tool in ("/usr/sbin/iptables-nft", "iptables"):
        for side in ("-s", "-d"):
            while _run(
                f"{tool} -w -D FORWARD {side} {cluster_cidr} -m comment --comment '{COMMENT}' -j ACCEPT"
            ):
                pass


def enable_sysctls() -> None:
    """Turn forwarding on."""
    for name in FORWARDING:
        path = Path("/proc/sys") / name.replace(".", "/")
        try:
            path.write_text("1")
        except OSError as error:
            print(f"cannot set {name}: {error}", file=sys.stderr)


def remove_links() -> None:
    """Delete the links and network namespaces that pod networks of this snap leave behind."""
    for path in sorted(Path("/sys/class/net").iterdir()):
        if path.name in OWN_LINKS or path.name.startswith("cali"):
            _run(f"ip link delete {path.name}")
    namespaces = Path("/run/netns")
    for path in sorted(namespaces.glob("cni-*")) if namespaces.is_dir() else ():
        _run(f"ip netns delete {path.name}")
