#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.agent_health: the health gate of a rollout."""

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_health
short_description: Wait until a node's pod network is healthy
version_added: 0.1.0
author: The podwire authors
description:
  - Asks the node's agent until all of its checks hold - the agent itself, the programs it should have
    attached, and probes that cross the real datapath to the node's own health endpoint and to those of the
    other nodes.
  - Fails with the name and the detail of every check that does not hold when the time is up. A rollout puts
    it at the end of each batch, so that a node that is not healthy stops the rollout and the remaining nodes
    stay as they are.
  - Changes nothing, so it does the same in check mode, except that there it asks once, does not wait, and
    does not fail when no agent answers, because a node that is not installed yet has none.
options:
  timeout:
    description:
      - How long to wait, in seconds. The gate is asked at least once.
    type: float
    default: 120
  interval:
    description:
      - Pause between two questions, in seconds.
    type: float
    default: 1
  probe:
    description:
      - Send packets through the datapath. Without it only what the agent knows already is checked.
    type: bool
    default: true
extends_documentation_fragment:
  - podwire.ebpf.agent
attributes:
  check_mode:
    description: Can run in check mode and return without changing anything.
    support: full
  diff_mode:
    description: There is nothing to compare, because nothing is changed.
    support: none
seealso:
  - module: podwire.ebpf.host_routing
  - module: podwire.ebpf.datapath
"""

EXAMPLES = r"""
- name: The node carries pod traffic
  podwire.ebpf.agent_health:
    timeout: 60
  become: true

- name: The agent is up, whatever its neighbours do
  podwire.ebpf.agent_health:
    probe: false
  become: true
"""

RETURN = r"""
healthy:
  description: Whether every check held. V(false) is possible in check mode alone.
  returned: always
  type: bool
  sample: true
checks:
  description: The checks of the last answer, in the agent's order.
  returned: when the agent answered
  type: list
  elements: dict
  contains:
    name:
      description: What was checked.
      type: str
      sample: node probe worker1
    ok:
      description: Whether it holds.
      type: bool
      sample: true
    detail:
      description: What was measured, or what is wrong.
      type: str
      sample: 10.1.2.1 answered in 0.21 ms
failing:
  description: One line for each reason why the gate is shut. Empty when it is open.
  returned: always
  type: list
  elements: str
  sample: ["node probe worker2: 10.1.2.1 did not answer within 1 s"]
asked:
  description: How often the agent was asked.
  returned: success
  type: int
  sample: 3
elapsed:
  description: Seconds from the first question to the last answer.
  returned: success
  type: float
  sample: 2.04
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import agent_client, health
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

ARGUMENTS = {
    **agent_client.ARGUMENTS,
    "timeout": {"type": "float", "default": 120},
    "interval": {"type": "float", "default": 1},
    "probe": {"type": "bool", "default": True},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    client = agent_client.AgentClient(module.params["socket"])
    timeout = 0.0 if module.check_mode else module.params["timeout"]
    try:
        answer, asked, elapsed = health.wait_healthy(
            lambda: health.read_health(client, probe=module.params["probe"]),
            timeout=timeout,
            interval=module.params["interval"],
            clock=time.monotonic,
            sleep=time.sleep,
        )
        if not (module.check_mode and not answer.reachable):
            health.require(answer, timeout=timeout)
    except PodwireError as error:
        module.fail_json(changed=False, healthy=False, **error.result())
    module.exit_json(
        changed=False,
        healthy=answer.healthy,
        checks=answer.checks,
        failing=answer.complaints(),
        asked=asked,
        elapsed=round(elapsed, 3),
    )


if __name__ == "__main__":
    main()
