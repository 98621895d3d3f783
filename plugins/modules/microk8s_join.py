#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_join: let a node join a MicroK8s cluster, or leave it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_join
short_description: Let a MicroK8s node join a cluster, or leave it
version_added: 0.1.0
author: The podwire authors
description:
  - Runs on the node that joins or leaves. Joining is gated on C(clustered.lock) and on the datastore's
    members, because C(microk8s join) itself is not idempotent, and verified by asking the API with the node's
    new credentials.
  - Join one node at a time (C(throttle=1)), because MicroK8s serialises only parts of it.
  - Workloads that ran on the joining node before are lost; that is MicroK8s' way.
  - C(microk8s join) takes the URL, and with it the token, as an argument and in no other way, so other users
    of the node can see it in the process list while the command runs. It is good for one cluster and, by
    default, for half an hour. Ansible's output and this module's messages do not show it.
options:
  state:
    description:
      - V(joined) joins. V(left) leaves; afterwards the node is a cluster of its own. Then let a control plane
        forget it with M(podwire.ebpf.microk8s_node).
    type: str
    choices: [joined, left]
    default: joined
  url:
    description: What M(podwire.ebpf.microk8s_token) returned. Needed only when the node has not joined yet.
    type: str
  role:
    description: What the node becomes.
    type: str
    choices: [worker, control_plane]
    default: worker
  network:
    description: Wait until the node's pod network is up too. Set it to V(false) when another task provides
      that network afterwards.
    type: bool
    default: true
  wait:
    description:
      - Wait until the API knows the node. With V(false) another call, without O(url), does that later, for
        several nodes side by side.
    type: bool
    default: true
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: Shows the role and whether the node is in a cluster.
    support: full
seealso:
  - module: podwire.ebpf.microk8s_token
  - module: podwire.ebpf.microk8s_node
"""

EXAMPLES = r"""
- name: The worker joins
  podwire.ebpf.microk8s_join:
    url: "{{ podwire_token.url }}"
  become: true
  throttle: 1

- name: The worker leaves
  podwire.ebpf.microk8s_join:
    state: left
  become: true
"""

RETURN = r"""
role:
  description: What the node is now.
  returned: always
  type: str
  sample: worker
node_name:
  description: The name under which it is registered.
  returned: always
  type: str
  sample: worker1
pod_cidr:
  description: The prefix of its pods, empty while the cluster assigns none.
  returned: when it has joined and was waited for
  type: str
  sample: 10.1.1.0/24
seconds:
  description: How long the command and the wait for the API took.
  returned: when it joined
  type: dict
  sample: {join: 4.1, ready: 6.3}
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import microk8s_cluster as cluster
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import wait_ready

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "state": {"type": "str", "choices": ["joined", "left"], "default": "joined"},
    "url": {"type": "str", "no_log": True},
    "role": {"type": "str", "choices": ["worker", "control_plane"], "default": "worker"},
    "network": {"type": "bool", "default": True},
    "wait": {"type": "bool", "default": True},
}


def described(node: Node, clustered: bool, role: str) -> dict[str, Any]:
    """One side of the diff."""
    return {"in_cluster": clustered, "role": role}


def join(node: Node) -> dict[str, Any]:
    """Join unless the node has, and wait for the API to know it."""
    layout, wanted = node.layout, node.params["role"]
    before = described(node, layout.clustered, layout.role)
    if layout.clustered and layout.role != wanted:
        raise PodwireError(
            f"{layout.node_name} is in a cluster already, as {layout.role}, not as {wanted}",
            "Let it leave first (state: left), then run again.",
        )
    changed = not layout.clustered
    after = described(node, True, wanted)
    result: dict[str, Any] = {"changed": changed, "diff": {"before": before, "after": after}}
    if node.check_mode:
        return {**result, "role": wanted, "node_name": layout.node_name}
    seconds = {}
    if changed:
        if not node.params["url"]:
            raise PodwireError(
                "This node has not joined, and no url is given", "Make one with podwire.ebpf.microk8s_token."
            )
        began = time.time()
        left = node.deadline - time.monotonic()
        cluster.join(layout, node.params["url"], worker=wanted == "worker", timeout=left)
        seconds["join"] = round(time.time() - began, 2)
        # Joining has started kubelite anew, with whatever its files say.
        layout.restart_marker("kubelite").unlink(missing_ok=True)
        if not layout.clustered:
            raise PodwireError(
                "microk8s join ended well, yet this node is not in a cluster",
                "Look at microk8s inspect; a join that was interrupted leaves var/lock/join-in-progress.",
            )
    result = {**result, "role": layout.role, "node_name": layout.node_name, "seconds": seconds}
    if not node.params["wait"]:
        return result
    began = time.time()
    found = wait_ready(
        node.kubectl,
        node.snapd,
        deadline=node.deadline,
        since=joined_at(node),
        network=node.params["network"],
    )
    seconds["ready"] = round(time.time() - began, 2)
    return {**result, "pod_cidr": found["spec"].get("podCIDR", "")}


def joined_at(node: Node) -> float:
    """When a worker joined: what kubelet of an earlier node of this name said before does not count."""
    lock = node.layout.lock("clustered.lock")
    return lock.stat().st_mtime if lock.exists() else 0.0


def leave(node: Node) -> dict[str, Any]:
    """Leave unless the node is on its own."""
    layout = node.layout
    before = described(node, layout.clustered, layout.role)
    changed = layout.clustered
    if changed and not node.check_mode:
        cluster.leave(layout, timeout=node.deadline - time.monotonic())
    return {
        "changed": changed,
        "role": layout.role,
        "node_name": layout.node_name,
        "diff": {"before": before, "after": described(node, False, "control_plane")},
    }


def work(node: Node) -> dict[str, Any]:
    joining = node.params["state"] == "joined"
    if not node.layout.installed and (node.check_mode or not joining):
        return {"changed": joining, "role": node.params["role"], "node_name": node.layout.node_name}
    node.require_installed()
    return join(node) if joining else leave(node)


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
