#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.datapath: load, attach, replace and remove a node's eBPF programs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: datapath
short_description: Load and attach the eBPF datapath on a node
version_added: 0.1.0
author: The podwire authors
description:
  - Makes the node run the objects that M(podwire.ebpf.datapath_build) compiled, attached to the node's
    devices and to every pod that it has. Programs that run already are replaced atomically, and maps are
    kept - no packet is lost, no connection ends.
  - Returns facts about programs, maps and the kernel.
  - Calls the C(podwire) command of the node's release, so the role C(podwire.ebpf.agent) (tasks C(install))
    comes first.
options:
  state:
    description:
      - V(present) loads and attaches, V(absent) detaches everything and drops programs, maps and pins. Pods
        lose their network with V(absent), so move them to another one first; C(playbooks/uninstall.yml) does.
    type: str
    choices: [present, absent]
    default: present
  objects:
    description:
      - Directory on the node with the objects and their C(manifest.json). Needed for V(present).
    type: path
  devices:
    description:
      - Devices of the node that lead to other nodes and to the world. Needed for V(present).
    type: list
    elements: str
  node_ip:
    description:
      - The node's IPv4 address, source of masqueraded packets. Needed for V(present).
    type: str
  host_routing:
    description:
      - The mode that a node starts with. One that has a mode keeps it; M(podwire.ebpf.host_routing) changes
        it.
    type: str
    choices: [ebpf, legacy]
    default: ebpf
  mtu:
    description:
      - Largest IP packet that the devices carry, in bytes.
    type: int
    default: 1500
  masquerade:
    description:
      - Give packets that leave the cluster the node's address.
    type: bool
    default: true
  nat_port_min:
    description:
      - First port for masqueraded connections. The host's own programs must not use the range.
    type: int
    default: 61000
  nat_port_max:
    description:
      - Last port for masqueraded connections.
    type: int
    default: 65535
  event_rate:
    description:
      - Drop events per second and CPU. V(0) turns events off; counters always count.
    type: int
    default: 100
  attach:
    description:
      - How to attach. V(auto) takes tcx links where the kernel has them (6.6) and clsact filters elsewhere.
    type: str
    choices: [auto, tcx, clsact]
    default: auto
  services:
    description:
      - Translate services in the datapath, in sockets and in packets, in place of kube-proxy. Which services
        there are comes from the agent.
    type: bool
    default: false
  start_services:
    description:
      - Whether C(services) are turned on where the datapath does not translate them yet. Otherwise a datapath
        that translates them goes on, and any other is left so. Before the agent knows the services, all of
        them would be refused.
    type: bool
    default: true
  node_port_min:
    description:
      - First port of the cluster's range for node ports (C(--service-node-port-range) of the API server).
    type: int
    default: 30000
  node_port_max:
    description:
      - Last port of that range.
    type: int
    default: 32767
  maglev_size:
    description:
      - Entries of the table that spreads clients from outside over a service's backends, a prime. More
        entries move fewer connections when a backend leaves; each takes two bytes per service.
    type: int
    default: 16381
  dsr:
    description:
      - Backends on other nodes answer clients outside directly, instead of by the node that was asked.
    type: bool
    default: false
  map_entries:
    description:
      - Sizes of maps by name, where they should differ from the built-in ones. A map whose size changes is
        made anew.
    type: dict
    default: {}
  command:
    description:
      - The C(podwire) command on the node.
    type: path
    default: /opt/podwire/current/bin/podwire
attributes:
  check_mode:
    description: >-
      Can run in check mode. The objects are opened and the kernel is asked for its features, nothing is
      loaded. Where the release or the objects are not on the node yet, the answer is that they would be
      loaded.
    support: full
  diff_mode:
    description: Returns mode, devices, settings and a digest of programs and constants before and after.
    support: full
seealso:
  - module: podwire.ebpf.datapath_build
  - module: podwire.ebpf.host_routing
"""

EXAMPLES = r"""
- name: The datapath is attached
  podwire.ebpf.datapath:
    objects: /opt/podwire/bpf/5c2f7d1e0a9b4c3d8e6f1a2b3c4d5e6f
    devices: [eth0]
    node_ip: 10.0.0.11
  become: true
  register: datapath

- name: What the kernel offers
  ansible.builtin.debug:
    var: datapath.features

- name: The datapath is gone
  podwire.ebpf.datapath:
    state: absent
  become: true
"""

RETURN = r"""
steps:
  description: What was done, or in check mode would be done, in order.
  returned: success
  type: list
  elements: str
  sample: ["load program podwire_from_pod", "attach from_netdev to eth0", "attach to_netdev to eth0"]
notes:
  description: Things worth knowing that are not changes, such as a fallback and its reason.
  returned: success
  type: list
  elements: str
  sample: []
mode:
  description: The host-routing mode in effect.
  returned: when the command is on the node
  type: str
  sample: ebpf
reason:
  description: Why the mode is not the wanted one; empty when it is.
  returned: when the command is on the node
  type: str
  sample: ""
attach:
  description: How programs are attached.
  returned: when the command is on the node
  type: str
  sample: tcx
programs:
  description: The programs, with id, tag, sizes and the interfaces they are attached to.
  returned: when the command is on the node
  type: list
  elements: dict
  sample:
    - {name: podwire_from_netdev, id: 51, tag: 3b185187f1855c4c, attached: [2], xlated_bytes: 10464,
      jited_bytes: 6021}
maps:
  description: The maps, with type and sizes.
  returned: when the command is on the node
  type: list
  elements: dict
  sample:
    - {name: podwire_ct4, id: 17, type: lru_hash, entries: null, max_entries: 131072, key_size: 16,
      value_size: 64}
devices:
  description: The node's devices and what is attached to them.
  returned: when the command is on the node
  type: list
  elements: dict
  sample: [{name: eth0, ifindex: 2, hooks: [from_netdev, to_netdev]}]
sockets:
  description: >-
    Translation of services in sockets - the control group that it serves, the hooks attached there, and the
    reason when it is wanted and not there.
  returned: when the command is on the node
  type: dict
  sample: {enabled: true, cgroup: /sys/fs/cgroup, attached: [connect4, connect6, getpeername4, getpeername6,
    recvmsg4, recvmsg6, sendmsg4], reason: ""}
features:
  description: What the kernel offers, found by trying.
  returned: when the command is on the node
  type: dict
  sample: {tcx: true, redirect_peer: true, redirect_neigh: true}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import datapath, node_cli
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

NOT_AS_APPLIED = 3  # exit status of `podwire datapath status`; its answer is complete all the same

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "objects": {"type": "path"},
    "devices": {"type": "list", "elements": "str"},
    "node_ip": {"type": "str"},
    "host_routing": {"type": "str", "choices": ["ebpf", "legacy"], "default": "ebpf"},
    "mtu": {"type": "int", "default": 1500},
    "masquerade": {"type": "bool", "default": True},
    "nat_port_min": {"type": "int", "default": 61000},
    "nat_port_max": {"type": "int", "default": 65535},
    "event_rate": {"type": "int", "default": 100},
    "attach": {"type": "str", "choices": ["auto", "tcx", "clsact"], "default": "auto"},
    "services": {"type": "bool", "default": False},
    "start_services": {"type": "bool", "default": True},
    "node_port_min": {"type": "int", "default": 30000},
    "node_port_max": {"type": "int", "default": 32767},
    "maglev_size": {"type": "int", "default": 16381},
    "dsr": {"type": "bool", "default": False},
    "map_entries": {"type": "dict", "default": {}},
    "command": {"type": "path", "default": node_cli.COMMAND},
}


def run(module: AnsibleModule) -> dict[str, Any]:
    """Have the node's command do it, or tell what it would do."""
    options, check = module.params, module.check_mode
    cli = node_cli.NodeCli(options["command"])
    if options["state"] == "absent":
        if not cli.installed:
            return datapath.foretold("absent", options)
        return datapath.result_of(cli.call("datapath", "remove", *(["--check"] if check else [])))
    if check and not (cli.installed and Path(options["objects"]).is_dir()):
        return datapath.foretold("present", options)
    status = cli.call("datapath", "status", accept=(0, NOT_AS_APPLIED))
    options["services"] = datapath.wanted_services(options, status)
    mode = datapath.wanted_mode(options["host_routing"], status)
    return datapath.result_of(cli.call(*datapath.apply_arguments(options, mode, check=check)))


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("state", "present", ["objects", "devices", "node_ip"])],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except PodwireError as error:
        module.fail_json(**error.result())
    for note in result["notes"]:
        module.warn(note)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
