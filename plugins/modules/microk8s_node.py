#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_node: a node as the cluster sees it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_node
short_description: Wait for a node of a MicroK8s cluster, or let the cluster forget it
version_added: 0.1.0
author: The podwire authors
description:
  - Runs on a control plane and asks its API.
options:
  name:
    description: The node, by the name it is registered under.
    type: str
    required: true
  state:
    description:
      - V(ready) waits until the node is registered and Ready.
      - V(absent) runs C(microk8s remove-node) for a node that has left.
    type: str
    choices: [ready, absent]
    default: ready
  network:
    description: With V(false) a node that lacks nothing but a pod network counts as ready.
    type: bool
    default: true
  pod_cidr:
    description:
      - Wait until the node has a C(podCIDR) too. MicroK8s assigns none unless kube-controller-manager is told
        to (M(podwire.ebpf.microk8s_args)).
    type: bool
    default: false
  force:
    description: With O(state=absent), remove a node that cannot leave because it is lost.
    type: bool
    default: false
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: There is nothing to compare.
    support: none
"""

EXAMPLES = r"""
- name: The cluster sees worker1 and has given it addresses for pods
  podwire.ebpf.microk8s_node:
    name: worker1
    pod_cidr: true
  delegate_to: cp1
  become: true
"""

RETURN = r"""
pod_cidr:
  description: The prefix of the node's pods.
  returned: for O(state=ready), except in check mode before there is a cluster
  type: str
  sample: 10.1.1.0/24
address:
  description: The node's InternalIP.
  returned: for O(state=ready), except in check mode before there is a cluster
  type: str
  sample: 10.0.0.21
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_cluster import remove_node
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import wait_for_node

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["ready", "absent"], "default": "ready"},
    "network": {"type": "bool", "default": True},
    "pod_cidr": {"type": "bool", "default": False},
    "force": {"type": "bool", "default": False},
}


def forget(node: Node) -> dict[str, Any]:
    """Let the cluster forget the node."""
    name = node.params["name"]
    if not node.layout.installed or node.kubectl.get("node", name) is None:
        return {"changed": False}
    if not node.check_mode:
        remove_node(node.layout, name, force=node.params["force"], timeout=node.deadline - time.monotonic())
    return {"changed": True}


def wait(node: Node) -> dict[str, Any]:
    """Wait for the node, or in check mode look once."""
    if node.check_mode:
        found = node.kubectl.get("node", node.params["name"]) if node.layout.installed else None
        if found is None:
            return {"changed": False}
    else:
        node.require_control_plane()
        found = wait_for_node(
            node.kubectl,
            node.params["name"],
            deadline=node.deadline,
            network=node.params["network"],
            pod_cidr=node.params["pod_cidr"],
        )
    addresses = found["status"].get("addresses") or []
    internal = [item["address"] for item in addresses if item.get("type") == "InternalIP"]
    return {
        "changed": False,
        "pod_cidr": found["spec"].get("podCIDR", ""),
        "address": internal[0] if internal else "",
    }


def work(node: Node) -> dict[str, Any]:
    return wait(node) if node.params["state"] == "ready" else forget(node)


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
