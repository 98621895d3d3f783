"""snapd's hooks: install, configure, post-refresh, remove."""

from __future__ import annotations

import os
import subprocess

from . import argsfile, cgroups, containers, files, host, network, nodefiles
from .layout import Layout


def install(layout: Layout) -> int:
    nodefiles.install(layout)
    return 0


def configure(layout: Layout) -> int:
    network.link_plugins(layout, layout.snap.parent / "current")
    nodefiles.create_directories(layout)
    nodefiles.link_host_paths(layout)
    nodefiles.protect(layout)
    return 0


def post_refresh(layout: Layout) -> int:
    """A new revision got a copy of the data: make the copied links and the images fit it."""
    nodefiles.sideload_bundled_images(layout)
    layout.set_lock("snapdata-mounts-need-reload")
    _run_hooks(layout, "post-refresh.d")
    return 0


def _run_hooks(layout: Layout, name: str) -> None:
    directory = layout.common / "hooks" / name
    for hook in sorted(directory.iterdir()) if directory.is_dir() else ():
        if os.access(hook, os.X_OK):
            subprocess.run([str(hook)], check=False, timeout=120)


def remove(layout: Layout) -> int:
    """Give the host back: no container, mount, link, rule or cgroup of this snap stays behind."""
    _run_hooks(layout, "remove.d")
    host.systemctl("stop", "kubelite", "containerd")
    containers.kill_leftovers(layout)
    containers.unmount_below(layout.common)
    containers.unmount_below(layout.data)
    cidr = argsfile.get(files.read(layout.args("kube-proxy")), "--cluster-cidr")
    if cidr:
        network.forbid_forwarding(cidr)
    network.remove_links()
    nodefiles.unlink_host_paths(layout)
    cgroups.remove(cgroups.own_name(host.hostname(), cgroups.MACHINE_ID.read_text()))
    return 0
