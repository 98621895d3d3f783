#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.service_info: the services that a node's datapath serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_info
short_description: List the services that a node's datapath serves
version_added: 0.1.0
author: The podwire authors
description:
  - Asks the node's agent for its services, with their frontends (the addresses and ports that clients dial),
    how many backends stand behind each, and what is wrong with the services' objects.
  - With O(name) the backends of that one service are returned as well, with their node and their state.
  - Changes nothing, so it does the same in check mode.
options:
  namespace:
    description:
      - Only services of this namespace. By default those of all namespaces, or the namespace V(default) when
        O(name) is given.
    type: str
  name:
    description:
      - Only the service of this name, with its backends. RV(services) is empty when there is none.
      - The name of a pod with host ports is possible, too.
    type: str
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
  - module: podwire.ebpf.agent_health
"""

EXAMPLES = r"""
- name: Look at the services of a namespace
  podwire.ebpf.service_info:
    namespace: shop
  become: true
  register: shop

- name: Every service of the shop is as its authors meant it
  ansible.builtin.assert:
    that: shop.problems | length == 0
    fail_msg: "{{ shop.problems | map(attribute='message') | join('; ') }}"

- name: Look at cluster DNS and its backends
  podwire.ebpf.service_info:
    namespace: kube-system
    name: kube-dns
  become: true
"""

RETURN = r"""
enabled:
  description: Whether podwire serves services on this node. V(false) means that kube-proxy does.
  returned: success
  type: bool
  sample: true
synced:
  description: Whether everything that was known when the agent started is in force.
  returned: success
  type: bool
  sample: true
services:
  description:
    - The services, sorted by namespace and name, and the pods with host ports, with type V(HostPort).
  returned: success
  type: list
  elements: dict
  contains:
    namespace:
      description: Namespace of the service.
      type: str
      sample: shop
    name:
      description: Name of the service.
      type: str
      sample: web
    type:
      description: Type of the service, or V(HostPort) for the host ports of a pod.
      type: str
      sample: NodePort
    note:
      description: Why the service has no frontends on purpose, such as being headless. Empty for most.
      type: str
      sample: ""
    frontends:
      description: What clients dial.
      type: list
      elements: dict
      contains:
        kind:
          description:
            - V(ClusterIP), V(NodePort), V(ExternalIP), V(LoadBalancer), V(HostPort), or several joined
              by V(+).
          type: str
          sample: NodePort
        address:
          description: The address; V(0.0.0.0) stands for every address of a node.
          type: str
          sample: 0.0.0.0
        port:
          description: The port.
          type: int
          sample: 30080
        protocol:
          description: V(TCP), V(UDP) or V(SCTP).
          type: str
          sample: TCP
        port_name:
          description: Name of the service's port, empty when it has none.
          type: str
          sample: http
        backends:
          description: How many backends clients in the cluster are spread over. With 0 they are refused.
          type: int
          sample: 3
        external_backends:
          description: The same for clients outside; V(null) for a ClusterIP, which they cannot reach.
          type: int
          sample: 1
        policy:
          description: Traffic policy of the frontend, V(Cluster) or V(Local).
          type: str
          sample: Local
        maglev:
          description: Whether clients outside get their backends from a Maglev table.
          type: bool
          sample: false
        id:
          description: Number of the service port in the datapath's tables and events.
          type: int
          sample: 12
    problems:
      description: What is wrong with the service.
      type: list
      elements: dict
      sample: []
    backends:
      description: The service's endpoints, also those that are not in use.
      returned: when O(name) is given
      type: list
      elements: dict
      contains:
        address:
          description: Its address.
          type: str
          sample: 10.1.2.17
        port:
          description: Its port.
          type: int
          sample: 8080
        protocol:
          description: V(TCP), V(UDP) or V(SCTP).
          type: str
          sample: TCP
        port_name:
          description: Name of the service's port that leads there.
          type: str
          sample: http
        node:
          description: Its node; V(null) when the slice does not say.
          type: str
          sample: worker1
        local:
          description: Whether that is this node.
          type: bool
          sample: true
        state:
          description: V(ready), V(not ready), V(terminating) (it still serves) or V(terminated).
          type: str
          sample: ready
        in_use:
          description: Whether it gets new connections.
          type: bool
          sample: true
problems:
  description: The problems of all returned services.
  returned: success
  type: list
  elements: dict
  contains:
    namespace:
      description: Namespace of the object.
      type: str
      sample: shop
    name:
      description: Name of the object.
      type: str
      sample: web
    reason:
      description: One word, the same as in the Kubernetes event.
      type: str
      sample: Conflict
    message:
      description: Cause and way out.
      type: str
      sample: >-
        node port 30080/TCP belongs to Service shop/old, which is older: not served; choose another, or delete
        the other one
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import agent_client, services
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

ARGUMENTS = {
    **agent_client.ARGUMENTS,
    "namespace": {"type": "str"},
    "name": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    client = agent_client.AgentClient(module.params["socket"])
    try:
        result = services.read_services(client, module.params["namespace"], module.params["name"])
    except PodwireError as error:
        module.fail_json(changed=False, **error.result())
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
