#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_network: which pod network a MicroK8s node uses."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_network
short_description: Take over a MicroK8s node's pod network, or give it back
version_added: 0.1.0
author: The podwire authors
description:
  - MicroK8s has no switch for installing it without a pod network, and brings its own back whenever it can.
    This module does what is needed on one node, without a reboot and in an order that never leaves containerd
    without a configuration.
  - The API objects of the default network are another module's, M(podwire.ebpf.microk8s_default_network), and
    so are the pods that must be made again afterwards, M(podwire.ebpf.microk8s_pods). The role
    C(podwire.ebpf.microk8s) puts them in order (its task files C(takeover) and C(giveback)).
  - What it does is recorded in C(var/lock/podwire-network.json) of the snap's data, so that giving back
    undoes that and no more.
options:
  state:
    description:
      - V(claimed) puts C(cni.yaml) aside and creates the locks C(cni-loaded) and C(no-cert-reissue), so that
        the default network is not applied again and a new address on the host reissues no certificates. The
        network that runs goes on running. A node that was installed a moment ago has none and gets none until
        it is taken over. Do this on every node before it joins others.
      - V(podwire) does the same, installs the CNI plugin and its configuration, removes the default network's
        configuration, and removes what that network left on the host (links, routes, netfilter chains of both
        iptables flavours, IP sets, address files, results of CNI calls).
      - V(default) waits until the default network has written its configuration again, and points containerd
        back to it.
      - V(forgotten) drops the record and what libcni remembers of podwire's pods, once the pods have been
        made again.
    type: str
    choices: [claimed, podwire, default, forgotten]
    required: true
  conflist:
    description: The text of C(05-podwire.conflist). Needed for O(state=podwire).
    type: str
  plugin:
    description: The CNI plugin's binary on the node. Needed for O(state=podwire).
    type: path
  cluster_cidr:
    description: The pods' prefix; routes of the default network are looked for inside it.
    type: str
    default: 10.1.0.0/16
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: Shows the owner of the pods, the CNI configurations and the place of C(cni.yaml) before and
      after.
    support: full
"""

EXAMPLES = r"""
- name: Nothing brings the default network back
  podwire.ebpf.microk8s_network:
    state: claimed
  become: true

- name: containerd hands new pods to podwire
  podwire.ebpf.microk8s_network:
    state: podwire
    conflist: "{{ lookup('ansible.builtin.template', '05-podwire.conflist.j2') }}"
    plugin: /opt/podwire/current/bin/podwire-cni
  become: true
"""

RETURN = r"""
owner:
  description: Whose the pods are.
  returned: always
  type: str
  sample: podwire
since:
  description:
    - When that began, in seconds since the epoch. Pods that started before still hang on the other network.
      Absent as long as nothing was taken over.
  returned: when the network was taken over, or given back and not yet forgotten
  type: float
  sample: 1795000000.25
steps:
  description: What was done (in check mode, what would be).
  returned: always
  type: list
  elements: str
  sample: [install podwire-cni, write 05-podwire.conflist, podwire has the pods from now on, remove
    10-calico.conflist]
traces:
  description: What of the default network was removed from the host.
  returned: for O(state=podwire)
  type: dict
  sample: {links: [cni0], chains: [iptables-nft nat/CNI-0f3a9a8d2c1b7e6f5a4b3c2d]}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import WORKER
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_takeover import ASIDE, MANIFEST, Takeover
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_traces import Host

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "state": {"type": "str", "choices": ["claimed", "podwire", "default", "forgotten"], "required": True},
    "conflist": {"type": "str"},
    "plugin": {"type": "path"},
    "cluster_cidr": {"type": "str", "default": "10.1.0.0/16"},
}


def described(takeover: Takeover) -> dict[str, Any]:
    """One side of the diff."""
    folder = takeover.layout.cni_conf
    return {
        "owner": takeover.record.owner,
        "configurations": takeover.conf_files(),
        "manifest": next((name for name in (MANIFEST, ASIDE) if (folder / name).exists()), "absent"),
    }


def take(node: Node, takeover: Takeover) -> dict[str, Any]:
    """Claim the network and point containerd to podwire; clean what the default network left."""
    takeover.check_foreign()
    takeover.claim()
    takeover.install(node.params["conflist"], Path(node.params["plugin"]))
    host = Host.of(node.layout.root, node.layout.snap)
    traces = host.clean(takeover.record.network, node.params["cluster_cidr"], dry=node.check_mode)
    for warning in traces.warnings:
        node.module.warn(warning)
    if traces:
        takeover.steps.append("remove the default network's traces from the host")
    return {"traces": traces.as_dict()}


def give_back(node: Node, takeover: Takeover) -> dict[str, Any]:
    """Point containerd to the default network again."""
    takeover.restore_manifest()
    if takeover.record.owner == "podwire" and not node.check_mode:
        takeover.wait_default(node.deadline)
    nodes = 2
    if node.layout.role != WORKER and takeover.record_path.exists():
        nodes = len(node.kubectl.items("nodes"))
    takeover.release(alone=takeover.alone(nodes))
    return {}


def work(node: Node) -> dict[str, Any]:
    state = node.params["state"]
    if not node.layout.installed:
        if state in ("default", "forgotten"):
            return {"changed": False, "owner": "default", "steps": []}
        if node.check_mode:
            return {"changed": True, "owner": "default", "steps": ["when MicroK8s is installed"]}
        node.require_installed()
    takeover = Takeover(node.layout, dry=node.check_mode)
    before = described(takeover)
    result: dict[str, Any] = {}
    if state == "claimed":
        takeover.claim()
    elif state == "podwire":
        result = take(node, takeover)
    elif state == "default":
        result = give_back(node, takeover)
    else:
        takeover.forget()
    if takeover.record.since is not None and state != "forgotten":
        result["since"] = takeover.record.since
    return {
        **result,
        "changed": bool(takeover.steps),
        "owner": takeover.record.owner,
        "steps": takeover.steps,
        "diff": {"before": before, "after": described(takeover)},
    }


def main() -> None:
    run(
        AnsibleModule(
            argument_spec=SPEC,
            supports_check_mode=True,
            required_if=[("state", "podwire", ("conflist", "plugin"))],
        ),
        work,
    )


if __name__ == "__main__":
    main()
