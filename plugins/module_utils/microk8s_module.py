# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""What every MicroK8s module does around its own work: arguments, root, deadline, one place that reports
failures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd import Snapd
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_transport import SOCKET

ARGUMENTS: dict[str, dict[str, Any]] = {
    "timeout": {"type": "int", "default": 900},
    "snapd_socket": {"type": "path", "default": SOCKET},
}
"""Options of every MicroK8s module; documented in the fragment ``podwire.ebpf.microk8s``."""


class Node:
    """The node a module works on, and how long it may."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: dict[str, Any] = module.params
        self.check_mode: bool = module.check_mode
        self.layout = Layout()
        self.snapd = Snapd(module.params["snapd_socket"])
        self.kubectl = Kubectl(self.layout)
        self.deadline = time.monotonic() + module.params["timeout"]

    def require_installed(self) -> None:
        """Fail unless MicroK8s is installed."""
        if not self.layout.installed:
            raise PodwireError(
                f"MicroK8s is not installed on this node ({self.layout.args} does not exist)",
                "Run the module podwire.ebpf.microk8s, or the role podwire.ebpf.microk8s, first.",
            )

    def require_control_plane(self) -> None:
        """Fail on a worker: only control planes hold the administrator's credentials."""
        self.require_installed()
        if self.layout.role != "control_plane":
            raise PodwireError(
                f"{self.layout.node_name} is a worker; this needs a control plane",
                "Delegate the task to a host of the group control_plane.",
            )


def run(module: AnsibleModule, work: Callable[[Node], dict[str, Any]]) -> None:
    """Check the ground, do the work, and report its result or its failure."""
    try:
        if os.geteuid() != 0:
            raise PodwireError(
                f"This needs root, and runs as user id {os.geteuid()}",
                "Set become: true on the task or the play.",
            )
        result = work(Node(module))
    except PodwireError as error:
        module.fail_json(**error.result())
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        hint = "Free some room on that file system and run again." if error.errno == 28 else "Then run again."
        module.fail_json(
            msg=f"Cannot work on{where or ' this node'}: {error.strerror or error}. {hint}", hint=hint
        )
    else:
        module.exit_json(**result)
