#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_info: what MicroK8s is on a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_info
short_description: Tell what MicroK8s is on a node
version_added: 0.1.0
author: The podwire authors
description:
  - Reads snapd and MicroK8s' own files. Changes nothing and waits for nothing.
options:
  snap:
    description: A snap file that shall be installed as MicroK8s, by any path; O(snap.sha256) is compared with
      what is installed.
    type: dict
    suboptions:
      path:
        description: The file's path. The snap's name is taken from it (C(NAME_...)) where the file itself is
          not on the node.
        type: path
        required: true
      sha256:
        description: Its SHA-256 in hex.
        type: str
        required: true
  prerequisites:
    description: Snap files that shall be installed before it.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file's path.
        type: path
        required: true
      sha256:
        description: Its SHA-256 in hex.
        type: str
        required: true
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: Nothing is changed.
    support: none
"""

EXAMPLES = r"""
- name: What is there
  podwire.ebpf.microk8s_info:
  become: true
  register: podwire_microk8s
"""

RETURN = r"""
snapd:
  description: snapd's version, empty where there is none.
  returned: always
  type: str
  sample: 2.57.6-1+deb12u1
installed:
  description: Whether MicroK8s is installed.
  returned: always
  type: bool
  sample: true
version:
  description: Version of the snap.
  returned: when it is installed
  type: str
  sample: v1.28.15
revision:
  description: Revision of the snap.
  returned: when it is installed
  type: str
  sample: "7123"
channel:
  description: The channel it follows.
  returned: when it is installed
  type: str
  sample: 1.28/stable
role:
  description: V(worker) or V(control_plane).
  returned: when it is installed
  type: str
  sample: worker
clustered:
  description: Whether the node is in a cluster with others, as far as it knows. A control plane that only
    workers joined says V(false).
  returned: when it is installed
  type: bool
  sample: true
node_name:
  description: The name under which kubelet registers the node.
  returned: always
  type: str
  sample: worker1
network:
  description: Whether the node has a pod network, which is a configuration by which containerd connects pods.
  returned: when it is installed
  type: bool
  sample: true
cluster_cidr:
  description: The pods' prefix that the node was set up with.
  returned: when it is installed
  type: str
  sample: 10.1.0.0/16
files_needed:
  description: Those of the snap files whose content is not installed, so that only they need to be copied.
  returned: always
  type: list
  elements: str
  sample: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_install import WantedFile, files_needed
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import SNAP
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_takeover import Takeover
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import SnapdUnavailableError

FILE = {"path": {"type": "path", "required": True}, "sha256": {"type": "str", "required": True}}
SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "snap": {"type": "dict", "options": FILE},
    "prerequisites": {"type": "list", "elements": "dict", "default": [], "options": FILE},
}


def work(node: Node) -> dict[str, Any]:
    files = [WantedFile(item["path"], item["sha256"]) for item in node.params["prerequisites"]]
    snap = [WantedFile(**node.params["snap"])] if node.params["snap"] else []
    try:
        version = node.snapd.version()
    except SnapdUnavailableError:
        return {
            "changed": False,
            "snapd": "",
            "installed": False,
            "files_needed": [file.path for file in files + snap],
        }
    needed = files_needed(node.snapd, files) + files_needed(node.snapd, snap, SNAP)
    result: dict[str, Any] = {
        "changed": False,
        "snapd": version,
        "installed": False,
        "node_name": node.layout.node_name,
        "files_needed": needed,
    }
    record = node.snapd.snap(SNAP)
    if record is None:
        return result
    layout = node.layout
    return {
        **result,
        "installed": True,
        "version": record.get("version", ""),
        "revision": str(record.get("revision", "")),
        "channel": record.get("tracking-channel", ""),
        "role": layout.role,
        "clustered": layout.clustered,
        "network": bool(Takeover(layout, dry=True).conf_files()),
        "cluster_cidr": layout.argument("kube-proxy", "cluster-cidr") or "",
    }


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
