# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Where MicroK8s keeps what on a node, and what those files say about the node's role."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_args_file import ArgsFile

SNAP = "microk8s"
CONTROL_PLANE = "control_plane"
WORKER = "worker"


@dataclass(frozen=True)
class Layout:
    """The paths of one node. ``root`` is ``/`` except in tests."""

    root: Path = Path("/")

    @property
    def snap(self) -> Path:
        """The read-only snap, always by its ``current`` link, so that it survives a refresh."""
        return self.root / "snap" / SNAP / "current"

    @property
    def data(self) -> Path:
        """The snap's data of the revision in use."""
        return self.root / "var/snap" / SNAP / "current"

    @property
    def common(self) -> Path:
        """The snap's data that revisions share."""
        return self.root / "var/snap" / SNAP / "common"

    @property
    def args(self) -> Path:
        return self.data / "args"

    @property
    def cni_conf(self) -> Path:
        """containerd's CNI configuration directory; it also holds ``cni.yaml``, which containerd ignores."""
        return self.args / "cni-network"

    @property
    def cni_bin(self) -> Path:
        return self.data / "opt/cni/bin"

    @property
    def locks(self) -> Path:
        return self.data / "var/lock"

    @property
    def command(self) -> Path:
        """The ``microk8s`` command; /snap/bin is often absent from a non-interactive PATH."""
        return self.root / "snap/bin" / SNAP

    def lock(self, name: str) -> Path:
        return self.locks / name

    def restart_marker(self, service: str) -> Path:
        """There while a service still runs with other arguments than its files say. It outlives a run that is
        killed between writing a file and restarting its reader.
        """
        return self.lock(f"podwire-restart-{service}")

    @property
    def installed(self) -> bool:
        """Whether the snap's data is there at all (the install hook has run)."""
        return self.args.is_dir()

    @property
    def role(self) -> str:
        """``worker`` after joining as one, else ``control_plane``: a fresh node is a control plane of its
        own.
        """
        return WORKER if self.lock("clustered.lock").exists() else CONTROL_PLANE

    @property
    def datastore_members(self) -> list[str]:
        """Addresses of the control planes that share this node's datastore, from dqlite's own list."""
        try:
            text = (self.data / "var/kubernetes/backend/cluster.yaml").read_text()
        except OSError:
            return []
        return re.findall(r"^-?\s*Address:\s*[\"']?([^\s\"']+)", text, re.MULTILINE)

    @property
    def clustered(self) -> bool:
        """Whether the node has joined others, or others it (as control planes)."""
        return self.role == WORKER or len(self.datastore_members) > 1

    @property
    def node_name(self) -> str:
        """The name under which kubelet registers this node."""
        override = self.argument("kubelet", "hostname-override")
        return override or socket.gethostname().lower()

    @property
    def kubeconfig(self) -> Path:
        """The best credentials on this node: the administrator's on a control plane, kubelet's own on a
        worker.
        """
        name = "kubelet.config" if self.role == WORKER else "client.config"
        return self.data / "credentials" / name

    def argument(self, component: str, key: str) -> str | None:
        """One argument of a component, as its file says now."""
        try:
            return ArgsFile((self.args / component).read_text()).get(key)
        except OSError:
            return None
