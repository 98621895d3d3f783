#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.host_routing: choose how pod traffic crosses a node, and prove it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_routing
short_description: Switch a node between eBPF and legacy host routing
version_added: 0.1.0
author: The podwire authors
description:
  - Chooses how pod traffic crosses the node. In mode V(ebpf) programs redirect it to where it goes, around
    the host's network stack and its netfilter rules; in mode V(legacy) it is routed by the stack.
  - The switch replaces programs in place while traffic flows. Connections go on, masqueraded ones too.
  - The node remembers the mode across restarts and boots.
  - A kernel that lacks what V(ebpf) needs gets V(legacy); RV(reason) says what is missing, and the module
    warns.
  - Afterwards the mode is proved by counters - the agent sends probes to the other nodes' pods, and what the
    datapath counted is compared with what netfilter's FORWARD hook counted. A contradiction is a failure.
options:
  mode:
    description:
      - The wanted mode.
    type: str
    choices: [ebpf, legacy]
    required: true
  prove:
    description:
      - Compare counters after the switch. Not done in check mode.
    type: bool
    default: true
  probes:
    description:
      - How many rounds of probes to send for the proof.
    type: int
    default: 3
extends_documentation_fragment:
  - podwire.ebpf.agent
attributes:
  check_mode:
    description: Can run in check mode; the agent then tells what it would do.
    support: full
  diff_mode:
    description: Returns the mode before and after.
    support: full
seealso:
  - module: podwire.ebpf.agent_health
  - module: podwire.ebpf.datapath
"""

EXAMPLES = r"""
- name: Pod traffic goes around the host's stack
  podwire.ebpf.host_routing:
    mode: ebpf
  become: true

- name: It goes through the stack, so that the host's own netfilter rules see it
  podwire.ebpf.host_routing:
    mode: legacy
  become: true
"""

RETURN = r"""
before:
  description: The mode in effect before.
  returned: success
  type: str
  sample: legacy
mode:
  description: The mode in effect afterwards, which is V(legacy) on a kernel that cannot do V(ebpf).
  returned: success
  type: str
  sample: ebpf
reason:
  description: Why the mode is not the wanted one. Empty when it is.
  returned: success
  type: str
  sample: the kernel has no bpf_redirect_peer (5.10 has it)
evidence:
  description: What the proof saw.
  returned: when O(prove) is set, not in check mode
  type: dict
  contains:
    proved:
      description:
        - Whether the counters prove the mode. None when there was nothing to count, as on a cluster of one
          node.
      type: bool
      sample: true
    summary:
      description: The finding in a sentence.
      type: str
      sample: 24 packets were redirected in eBPF, none passed netfilter's FORWARD hook
    redirected_packets:
      description: Packets that programs redirected.
      type: int
      sample: 24
    stack_packets:
      description: Packets that went through the stack unchanged.
      type: int
      sample: 0
    translated_packets:
      description: Packets that went through the stack because it translates or consumes them.
      type: int
      sample: 2
    netfilter_forward_packets:
      description: Pod packets in netfilter's FORWARD hook.
      type: int
      sample: 0
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import agent_client, health, host_routing
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

ARGUMENTS = {
    **agent_client.ARGUMENTS,
    "mode": {"type": "str", "choices": [host_routing.EBPF, host_routing.LEGACY], "required": True},
    "prove": {"type": "bool", "default": True},
    "probes": {"type": "int", "default": 3},
}


def prove(client: agent_client.AgentClient, mode: str, rounds: int) -> host_routing.Proof:
    """Send probes and judge what the counters say about them."""
    before = host_routing.read_counters(client)
    for _ in range(rounds):
        health.read_health(client, probe=True)
    return host_routing.judge(mode, host_routing.read_counters(client).since(before))


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    client = agent_client.AgentClient(module.params["socket"])
    wanted = module.params["mode"]
    try:
        _, answer = client.put("/v1/host-routing", {"mode": wanted, "dry_run": module.check_mode})
        result = {
            "changed": bool(answer["changed"]),
            "before": answer["before"],
            "mode": answer["after"],
            "reason": answer.get("reason") or "",
            "diff": {
                "before": f"host routing: {answer['before']}\n",
                "after": f"host routing: {answer['after']}\n",
            },
        }
        if result["reason"]:
            module.warn(f"host routing is {answer['after']}, not {wanted}: {result['reason']}")
        if module.params["prove"] and not module.check_mode:
            proof = prove(client, answer["after"], module.params["probes"])
            result["evidence"] = proof.to_dict()
            if proof.proved is False:
                raise PodwireError(
                    f"the counters contradict host routing {answer['after']}: {proof.summary}",
                    "Look at: podwire status; podwire bpf metrics list; nft list table inet podwire.",
                    result,
                )
    except PodwireError as error:
        module.fail_json(**error.result())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
