#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_default_network: the API objects of MicroK8s' own pod network."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_default_network
short_description: Withdraw MicroK8s' own pod network from a node, or bring it back
version_added: 0.1.0
author: The podwire authors
description:
  - Runs on a control plane and works on the cluster's objects that C(cni.yaml) names.
  - On a running cluster the network is withdrawn node by node. A node gets the label
    C(podwire.io/network=podwire), which the network's DaemonSet is told to avoid, so the other nodes keep a
    whole network. With the last node the objects are deleted, the workloads first.
  - Definitions of custom resources stay, because deleting one deletes every object of it, also policies that
    people wrote.
options:
  state:
    description:
      - V(absent) takes the network off O(node) and waits until its daemon there has ended.
      - V(present) puts C(cni.yaml) back, lets MicroK8s apply it, and waits until its daemon runs on every
        node.
    type: str
    choices: [present, absent]
    default: present
  node:
    description: The node, by the name it is registered under.
    type: str
    required: true
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: There is no diff; the steps say what changes.
    support: none
"""

EXAMPLES = r"""
- name: The default network's daemon leaves this node
  podwire.ebpf.microk8s_default_network:
    state: absent
    node: worker1
  delegate_to: cp1
  become: true

- name: The default network is back
  podwire.ebpf.microk8s_default_network:
    state: present
    node: worker1
  delegate_to: cp1
  become: true
"""

RETURN = r"""
steps:
  description: What was done (in check mode, what would be).
  returned: always
  type: list
  elements: str
  sample: ["label node cp1 podwire.io/network=podwire", "delete DaemonSet.apps calico-node"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_default_objects import DefaultObjects
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_takeover import Takeover

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "node": {"type": "str", "required": True},
}


def restore(node: Node, objects: DefaultObjects) -> None:
    """Let the kicker apply the manifest again and wait for the network's daemon."""
    takeover = Takeover(node.layout, dry=node.check_mode)
    takeover.restore_manifest()
    lock = node.layout.lock("cni-loaded")
    daemons = (
        []
        if node.check_mode and takeover.steps
        else [o for o in objects.present() if o["kind"] == "DaemonSet"]
    )
    if not daemons and lock.exists():
        takeover.steps.append("let MicroK8s apply its own network")
        if not node.check_mode:
            lock.unlink()
    objects.steps = [*takeover.steps, *objects.steps]
    objects.unlabel(node.params["node"])
    if not node.check_mode:
        objects.wait_rolled_out()


def work(node: Node) -> dict[str, Any]:
    if not node.layout.installed:
        return {"changed": node.check_mode and node.params["state"] == "absent", "steps": []}
    node.require_control_plane()
    objects = DefaultObjects(node.kubectl, deadline=node.deadline, dry=node.check_mode)
    if node.params["state"] == "absent":
        objects.withdraw(node.params["node"])
    else:
        restore(node, objects)
    return {"changed": bool(objects.steps), "steps": objects.steps}


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
