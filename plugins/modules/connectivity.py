#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.connectivity: who reaches whom, tried by the real pods."""

from __future__ import annotations

DOCUMENTATION = r"""
module: connectivity
short_description: Try connections from pods and compare with what is expected
version_added: 0.1.0
author: The podwire authors
description:
  - Takes a table of expectations (from, to, port, protocol, expected outcome), tries each of them from the
    pods themselves, side by side, and fails when one is not as expected.
  - A connection is tried from inside the pod's network namespace, on the node where the pod runs. So its
    packets leave by the pod's own interface, with its address, past its policy, and nothing is asked of
    its image, which may lack a shell or a client. With a row's C(command) the pod's own program is run
    instead.
  - Each row says what was observed. V(allowed) is an answer, V(refused) one that says no (a TCP reset, an
    ICMP message), V(denied) silence, which is what a policy does.
  - Beside what was not as expected, and what was denied, stands the datapath's own reason, from the drop
    events of the node.
  - Tries the rows whose pods run on the machine that the task runs on. The role
    C(podwire.ebpf.connectivity) runs it on all nodes, asks the destinations' nodes for their reasons too,
    and puts one table together.
options:
  expectations:
    description:
      - The table. A row whose selectors match several pods is tried between all of them.
    type: list
    elements: dict
    suboptions:
      name:
        description: What the row is about, for people.
        type: str
      from:
        description: Where it starts. One of O(expectations[].from.pod), C(selector), C(deployment) and
          C(node).
        type: dict
        required: true
        suboptions:
          namespace:
            description: Namespace of the pods.
            type: str
            default: default
          pod:
            description: Name of a pod.
            type: str
          selector:
            description: Labels of pods.
            type: dict
          deployment:
            description: Name of a deployment, for all its pods.
            type: str
          node:
            description: Name of a node, for the node itself.
            type: str
      to:
        description: >-
          Where it goes. One of O(expectations[].to.pod), C(selector), C(deployment), C(service), C(node)
          and C(address).
        type: dict
        required: true
        suboptions:
          namespace:
            description: Namespace of the pods or the service.
            type: str
            default: default
          pod:
            description: Name of a pod.
            type: str
          selector:
            description: Labels of pods.
            type: dict
          deployment:
            description: Name of a deployment, for all its pods.
            type: str
          service:
            description: Name of a service; its cluster IP is dialled.
            type: str
          node:
            description: Name of a node.
            type: str
          address:
            description: An IPv4 address.
            type: str
      port:
        description: The destination's port. A service with one port needs none.
        type: int
      protocol:
        description: The protocol. For V(UDP) the server must be one that answers.
        type: str
        choices: [TCP, UDP, ICMP]
        default: TCP
      expect:
        description: What should come of it.
        type: str
        choices: [allowed, denied, refused]
        default: allowed
      payload:
        description: What to send by UDP. By default a line with the word podwire.
        type: str
      command:
        description:
          - A command to run in the pod (C(kubectl exec), on whatever node) in place of the probe. Exit status
            0 counts as V(allowed), others as C(denied_status) and C(refused_status) say, and the rest as an
            error.
        type: list
        elements: str
      container:
        description: The container of the pod that the command runs in.
        type: str
      denied_status:
        description: Exit statuses of the command that mean no answer. The default is C(curl)'s.
        type: list
        elements: int
        default: [28]
      refused_status:
        description: Exit statuses of the command that mean refused. The default is C(curl)'s.
        type: list
        elements: int
        default: [7]
  timeout:
    description:
      - How long one try may take, in seconds. A row that is expected to be denied takes that long.
    type: float
    default: 3
  partial:
    description:
      - Try only the rows that start on this machine and say nothing about the others. Without it they are
        a failure.
    type: bool
    default: false
  judge:
    description:
      - Fail when something is not as expected. Without it only tell.
    type: bool
    default: true
  plan:
    description:
      - Only find out what the table means, for RV(probes), and run the rows with a command.
    type: bool
    default: false
  probes:
    description:
      - What another machine has found with O(plan), in place of the table. This machine then needs no
        rights to read pods and services.
    type: list
    elements: dict
  explain:
    description:
      - RV(rows) of other nodes. Nothing is tried then; RV(reasons) has what this node's datapath knows of
        them.
    type: list
    elements: dict
  kubectl:
    description:
      - The C(kubectl) program. By default that of the MicroK8s snap on the machine.
    type: path
  kubeconfig:
    description:
      - Credentials for the API. By default those of the MicroK8s node that the task runs on.
    type: path
extends_documentation_fragment:
  - podwire.ebpf.agent
attributes:
  check_mode:
    description: Can run in check mode; it changes nothing, but a row's command may.
    support: full
  diff_mode:
    description: There is nothing to compare, because nothing is changed.
    support: none
notes:
  - Packets to services are translated as a pod's own are.
seealso:
  - module: podwire.ebpf.network_policy
"""

EXAMPLES = r"""
- name: The database answers to the shop alone
  podwire.ebpf.connectivity:
    partial: true
    expectations:
      - from: {namespace: shop, selector: {app: shop}}
        to: {namespace: shop, service: database}
        port: 5432
      - from: {namespace: shop, selector: {app: blog}}
        to: {namespace: shop, service: database}
        port: 5432
        expect: denied
  become: true

- name: As a user would, by the pod's own client
  podwire.ebpf.connectivity:
    expectations:
      - from: {pod: xwing}
        to: {service: deathstar}
        command:
          - curl
          - --silent
          - --connect-timeout
          - "3"
          - --request
          - POST
          - http://deathstar.default.svc.cluster.local/v1/request-landing
        expect: denied
  become: true
"""

RETURN = r"""
rows:
  description: What was tried, in the order of the table.
  returned: always, but with O(explain)
  type: list
  elements: dict
  contains:
    number:
      description: Its place in the table that all nodes make together.
      type: int
      sample: 0
    name:
      description: The row's name.
      type: str
      sample: the empire's ships land
    from:
      description: The pod or node where it started.
      type: str
      sample: default/xwing
    node:
      description: The node of that.
      type: str
      sample: worker1
    to:
      description: Where it went.
      type: str
      sample: service default/deathstar
    address:
      description: The address that was dialled.
      type: str
      sample: 10.152.183.44
    port:
      description: The port that was dialled, 0 for ICMP.
      type: int
      sample: 80
    protocol:
      description: The protocol.
      type: str
      sample: TCP
    expect:
      description: What was expected.
      type: str
      sample: allowed
    observed:
      description: V(allowed), V(denied), V(refused), or V(error) when nothing could be tried.
      type: str
      sample: denied
    detail:
      description: What the try itself says, and for a mismatch between pods what policies say.
      type: str
      sample: no answer in 3 s
    reason:
      description: The datapath's reason, empty when this node has none.
      type: str
      sample: policy denied (133), at ingress, no rule allows it
    source_address:
      description: The source's address.
      type: str
      sample: 10.1.1.7
    source_port:
      description: The source's port, 0 when not known.
      type: int
      sample: 40122
    began:
      description: When the try began, in seconds since the epoch.
      type: float
      sample: 1767225600.2
    ended:
      description: When it ended.
      type: float
      sample: 1767225603.2
probes:
  description: What the table means, but for rows with a command, as O(probes) takes it.
  returned: with O(plan)
  type: list
  elements: dict
  sample: []
table:
  description: The same as text.
  returned: always, but with O(explain)
  type: str
  sample: "FAIL  default/xwing  service default/deathstar (10.152.183.44)  80/TCP  allowed  denied"
mismatches:
  description: The rows that are not as expected.
  returned: always, but with O(explain)
  type: list
  elements: dict
  sample: []
total:
  description: How many connections the table means, on all nodes.
  returned: always, but with O(explain)
  type: int
  sample: 4
elsewhere:
  description: Pods on other nodes that start rows which were not tried here.
  returned: always, but with O(explain)
  type: list
  elements: str
  sample: [default/tiefighter on worker2]
reasons:
  description: The datapath's reason by the index of the row, as text.
  returned: with O(explain)
  type: dict
  sample: {"0": "policy denied (133), at ingress, no rule allows it"}
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import (
    agent_client,
    connectivity,
    connectivity_plan,
    connectivity_report,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout

PODS = {
    "namespace": {"type": "str", "default": "default"},
    "pod": {"type": "str"},
    "selector": {"type": "dict"},
    "deployment": {"type": "str"},
    "node": {"type": "str"},
}
SOURCES = ["pod", "selector", "deployment", "node"]
TARGETS = [*SOURCES, "service", "address"]


def one_of(names: list[str]) -> dict[str, Any]:
    """Exactly one of the suboptions is given."""
    return {"required_one_of": [names], "mutually_exclusive": [names]}


ROW = {
    "name": {"type": "str"},
    "from": {"type": "dict", "required": True, "options": PODS, **one_of(SOURCES)},
    "to": {
        "type": "dict",
        "required": True,
        "options": {**PODS, "service": {"type": "str"}, "address": {"type": "str"}},
        **one_of(TARGETS),
    },
    "port": {"type": "int"},
    "protocol": {"type": "str", "choices": ["TCP", "UDP", "ICMP"], "default": "TCP"},
    "expect": {"type": "str", "choices": ["allowed", "denied", "refused"], "default": "allowed"},
    "payload": {"type": "str"},
    "command": {"type": "list", "elements": "str"},
    "container": {"type": "str"},
    "denied_status": {"type": "list", "elements": "int", "default": [28]},
    "refused_status": {"type": "list", "elements": "int", "default": [7]},
}
ARGUMENTS = {
    **agent_client.ARGUMENTS,
    "expectations": {"type": "list", "elements": "dict", "options": ROW},
    "timeout": {"type": "float", "default": 3},
    "partial": {"type": "bool", "default": False},
    "judge": {"type": "bool", "default": True},
    "plan": {"type": "bool", "default": False},
    "probes": {"type": "list", "elements": "dict"},
    "explain": {"type": "list", "elements": "dict"},
    "kubectl": {"type": "path"},
    "kubeconfig": {"type": "path"},
}


def work(params: dict[str, Any]) -> dict[str, Any]:
    layout = Layout()
    kubectl = Kubectl(layout, program=params["kubectl"], kubeconfig=params["kubeconfig"])
    runner = connectivity.Runner(
        layout.node_name, agent_client.AgentClient(params["socket"]), kubectl, params["timeout"]
    )
    if params["explain"] is not None:
        return {"reasons": {str(number): text for number, text in runner.explain(params["explain"]).items()}}
    if params["probes"] is not None:
        probes = [connectivity_plan.from_dict(value) for value in params["probes"]]
    else:
        probes = connectivity_plan.probes(params["expectations"], connectivity.objects_of(kubectl))
    commands = [item for item in probes if item.command]
    others = [item for item in probes if not item.command]
    if params["plan"]:
        found = connectivity.result(runner.run(commands), others)
        return {**found, "probes": [item.to_dict() for item in others]}
    here, elsewhere = connectivity.split(probes, layout.node_name)
    rows = runner.run(here)
    if any(connectivity_report.wants_reason(row) for row in rows):
        time.sleep(connectivity.EVENTS_SETTLE)
        for number, reason in runner.explain(rows).items():
            rows[number]["reason"] = reason
        for item, row in zip(here, rows, strict=True):
            if not connectivity_report.is_right(row):
                row["detail"] = "; ".join(filter(None, [row["detail"], runner.policies_say(item)]))
    found = connectivity.result(rows, elsewhere)
    if params["judge"]:
        connectivity.judge(found, partial=params["partial"])
    return found


def main() -> None:
    one = ["expectations", "probes", "explain"]
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_one_of=[one],
        mutually_exclusive=[one],
    )
    try:
        result = work(module.params)
    except PodwireError as error:
        module.fail_json(changed=False, **error.result())
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
