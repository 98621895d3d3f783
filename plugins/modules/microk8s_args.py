#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_args: arguments of MicroK8s' components."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_args
short_description: Set or remove arguments of a MicroK8s component
version_added: 0.1.0
author: The podwire authors
description:
  - Edits one argument file of MicroK8s on the node and restarts the service that reads it, through snapd.
    Lines that it does not touch stay as they are.
  - A restart that an earlier run did not get to is made up for.
  - C(microk8s join) overwrites the joining node's file C(kubelet), so set kubelet's arguments after joining.
options:
  file:
    description: The file's name, which is the component's.
    type: str
    required: true
  args:
    description:
      - Arguments to set, by name, without dashes. Each will be there once; an argument that may be given
        several times has all its values in one then.
      - Values cannot hold spaces or quotes, which the files' readers drop.
    type: dict
    default: {}
  absent:
    description: Arguments to remove.
    type: list
    elements: str
    default: []
  restart:
    description:
      - Restart the service when something changed, and wait until the node is ready again. With V(false) the
        result's C(restart_needed) says whether that is still to be done; the next call with V(true) does it.
    type: bool
    default: true
  network:
    description: Whether being ready includes a working pod network.
    type: bool
    default: true
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: Shows the file before and after.
    support: full
"""

EXAMPLES = r"""
- name: Every node gets a prefix for its pods
  podwire.ebpf.microk8s_args:
    file: kube-controller-manager
    args:
      allocate-node-cidrs: "true"
      cluster-cidr: 10.1.0.0/16
  become: true
"""

RETURN = r"""
changes:
  description: What changed, by argument - the value before and after; none means absent.
  returned: always
  type: dict
  sample: {allocate-node-cidrs: [null, "true"]}
restart_needed:
  description: Whether the service still runs with other arguments than the file says.
  returned: always
  type: bool
  sample: false
service:
  description: The service that reads the file.
  returned: always
  type: str
  sample: microk8s.daemon-kubelite
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_args_file import (
    SERVICES,
    edit,
    service_of,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import wait_ready

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "file": {"type": "str", "required": True},
    "args": {"type": "dict", "default": {}},
    "absent": {"type": "list", "elements": "str", "default": []},
    "restart": {"type": "bool", "default": True},
    "network": {"type": "bool", "default": True},
}


def as_text(value: Any) -> str:
    """An argument's value as YAML gave it: true and 1 are what people write for "true" and "1"."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def replace_file(path: Path, text: str) -> None:
    """Write beside the file and rename, with its owner and mode, so that no reader sees half of it."""
    before = path.stat()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        os.chown(name, before.st_uid, before.st_gid)
        Path(name).chmod(before.st_mode & 0o7777)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def work(node: Node) -> dict[str, Any]:
    service = service_of(node.params["file"])
    if service is None:
        raise PodwireError(
            f"{node.params['file']!r} is no argument file of MicroK8s",
            f"There are: {', '.join(sorted(SERVICES))}.",
        )
    unit = f"microk8s.daemon-{service}"
    wanted = {key: as_text(value) for key, value in node.params["args"].items()}
    both = sorted(set(wanted) & set(node.params["absent"]))
    if both:
        raise PodwireError(f"{', '.join(both)} is to be set and to be absent", "Decide.")
    if not node.layout.installed and node.check_mode:
        changes = {key: [None, value] for key, value in wanted.items()}
        return {
            "changed": bool(changes),
            "changes": changes,
            "restart_needed": bool(changes),
            "service": unit,
        }
    node.require_installed()
    path = node.layout.args / node.params["file"]
    text = path.read_text() if path.exists() else ""
    after, changes = edit(text, wanted, node.params["absent"])
    marker = node.layout.restart_marker(service)
    header = {"before_header": str(path), "after_header": str(path)}
    result = {"changes": changes, "service": unit, "diff": {"before": text, "after": after, **header}}
    pending = bool(changes) or marker.exists()
    restart = pending and node.params["restart"]
    if node.check_mode:
        return {**result, "changed": bool(changes) or restart, "restart_needed": pending}
    if changes:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        replace_file(path, after)
    if restart:
        since = time.time()
        node.snapd.control("restart", [unit], deadline=node.deadline)
        if service in ("kubelite", "containerd"):
            wait_ready(
                node.kubectl, node.snapd, deadline=node.deadline, since=since, network=node.params["network"]
            )
        marker.unlink(missing_ok=True)
    return {**result, "changed": bool(changes) or restart, "restart_needed": pending and not restart}


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
