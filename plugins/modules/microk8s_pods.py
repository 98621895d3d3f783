#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_pods: move a node's pods to the network that containerd uses now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_pods
short_description: Recreate the pods of a node that still hang on its former network
version_added: 0.1.0
author: The podwire authors
description:
  - Deletes the node's pods that started before O(since) and waits until what was ready before is ready again.
    Pods on the host's network and finished pods are left alone.
  - A pod without a controller is made again from its own manifest, on the same node; data in its C(emptyDir)
    volumes is lost.
  - Runs on a control plane.
options:
  node:
    description: The node, by the name it is registered under.
    type: str
    required: true
  since:
    description: When the network changed, in seconds since the epoch, as M(podwire.ebpf.microk8s_network)
      returns it.
    type: float
    required: true
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: There is no diff; the result names the pods.
    support: none
"""

EXAMPLES = r"""
- name: Pods of worker1 use the new network
  podwire.ebpf.microk8s_pods:
    node: worker1
    since: "{{ podwire_network.since }}"
  delegate_to: cp1
  become: true
"""

RETURN = r"""
pods:
  description: The pods that were recreated (in check mode, that would be), as namespace/name of the old ones.
  returned: always
  type: list
  elements: str
  sample: [kube-system/coredns-5d9c7b8f4-x2x7q]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_pods import Pods

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "node": {"type": "str", "required": True},
    "since": {"type": "float", "required": True},
}


def work(node: Node) -> dict[str, Any]:
    node.require_control_plane()
    pods = Pods(node.kubectl, node.params["node"], deadline=node.deadline, dry=node.check_mode)
    names = pods.recreate(node.params["since"])
    return {"changed": bool(names), "pods": names}


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
