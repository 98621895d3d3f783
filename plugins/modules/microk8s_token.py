#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_token: a URL by which a node can join."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_token
short_description: Make a token by which a node can join a MicroK8s cluster
version_added: 0.1.0
author: The podwire authors
description:
  - Runs C(microk8s add-node) on a control plane. Every call makes another token, so call it only for a node
    that has not joined.
  - The result is a secret; give the task C(no_log).
options:
  ttl:
    description: How long the token is good, in seconds. A token without a lifetime is good for one join,
      whenever that is.
    type: int
    default: 1800
  address:
    description:
      - The control plane's address that the URL shall hold. The first join binds the cluster's datastore to
        it, so take the address that the nodes reach each other by.
    type: str
  prefer:
    description: Like O(address), but another one will do where the control plane does not have this one.
    type: str
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: There is nothing to compare.
    support: none
"""

EXAMPLES = r"""
- name: A way in for the new worker
  podwire.ebpf.microk8s_token:
    address: 10.0.0.11
  delegate_to: cp1
  become: true
  register: podwire_token
  no_log: true
"""

RETURN = r"""
url:
  description: What the joining node needs. Empty in check mode.
  returned: always
  type: str
  sample: 10.0.0.11:25000/8f1f0d2e6f3a4b5c8d9e0f1a2b3c4d5e/0a1b2c3d4e5f
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_cluster import add_node, pick_url
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "ttl": {"type": "int", "default": 1800, "no_log": False},
    "address": {"type": "str"},
    "prefer": {"type": "str"},
}


def work(node: Node) -> dict[str, Any]:
    if node.check_mode:
        return {"changed": True, "url": ""}
    node.require_control_plane()
    urls = add_node(node.layout, ttl=node.params["ttl"], timeout=node.params["timeout"])
    return {"changed": True, "url": pick_url(urls, node.params["address"], node.params["prefer"])}


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
