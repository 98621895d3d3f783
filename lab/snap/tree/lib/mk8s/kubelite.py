"""What run-kubelite does before kubelite: clean argument files, forwarding, this node's cgroup."""

from __future__ import annotations

from . import argsfile, cgroups, files, host, network
from .layout import Layout

# Flags that newer versions refuse; argument files written for older ones may still hold them.
OBSOLETE = {
    "kubelet": ("--cni-bin-dir", "--cni-conf-dir", "--network-plugin", "--containerd"),
    "kube-apiserver": ("--insecure-bind-address",),
}


def sanitise(layout: Layout) -> None:
    """Delete obsolete flags from the argument files, unless a lock forbids it."""
    if layout.locked("no-arg-sanitisation"):
        return
    for component, flags in OBSOLETE.items():
        text = files.read(layout.args(component))
        if any(argsfile.get(text, flag) is not None for flag in flags):
            argsfile.update(layout.args(component), dict.fromkeys(flags))


def prepare(layout: Layout) -> None:
    """Everything kubelite expects of the host."""
    sanitise(layout)
    if layout.cni_manifest.exists():
        network.enable_sysctls()
    cidr = argsfile.get(files.read(layout.args("kube-proxy")), "--cluster-cidr")
    if cidr:
        network.allow_forwarding(cidr)
    cgroups.create(cgroups.own_name(host.hostname(), cgroups.MACHINE_ID.read_text()))
