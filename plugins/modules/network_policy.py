#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.network_policy: network policies in the API, and in force on every node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network_policy
short_description: Apply or delete network policies and wait until every node enforces them
version_added: 0.1.0
author: The podwire authors
description:
  - Brings objects of kind C(NetworkPolicy), C(CiliumNetworkPolicy) and C(CiliumClusterwideNetworkPolicy)
    to the wanted state. What an object says afterwards is exactly what its definition says; labels and
    annotations that others have added stay.
  - Before anything is changed the API server checks all objects in a dry run. One that it refuses, or of
    which it would leave out a misspelt field, fails the task, and nothing is changed.
  - With O(wait) the task ends when every node's agent has reported that its kernel enforces the policies.
    Storing an object in the API takes effect a little later; this is the moment from which on the policy
    can be relied on. What else the nodes find wrong with policies becomes warnings.
options:
  definition:
    description:
      - The policies - YAML text with any number of documents, one object, or a list of objects. Those of
        O(src) are added.
    type: raw
  src:
    description:
      - A file with policies, or a folder whose files named C(*.yaml), C(*.yml) and C(*.json) have them
        (its own, not those in folders below). Each file may hold several documents.
      - Looked for on the controller, beside the playbook or in a role's C(files), unless O(remote_src) is
        set.
    type: path
  remote_src:
    description:
      - Whether O(src) is on the machine that the task runs on.
    type: bool
    default: false
  namespace:
    description:
      - The namespace of objects that do not name one.
    type: str
    default: default
  state:
    description:
      - Whether the objects should exist. For V(absent) only their kind, namespace and name count.
    type: str
    choices: [present, absent]
    default: present
  policy_set:
    description:
      - A name for these policies together. Each object gets it as the label C(podwire.io/policy-set).
    type: str
  purge:
    description:
      - Delete policies of the O(policy_set) that are not given, in all namespaces. Together with O(src)
        the cluster then has what the folder has. With O(state=absent) all policies of the set are deleted.
    type: bool
    default: false
  wait:
    description:
      - Wait until every node enforces the policies, also when nothing had to be changed. Not done in check
        mode.
    type: bool
    default: true
  wait_timeout:
    description:
      - How long to wait, in seconds. When the time is up the module fails and names the nodes that lag,
        and why.
    type: float
    default: 60
  kubectl:
    description:
      - The C(kubectl) program. By default that of the MicroK8s snap on the machine.
    type: path
  kubeconfig:
    description:
      - Credentials for the API. By default the administrator's of the MicroK8s control plane that the task
        runs on.
    type: path
attributes:
  check_mode:
    description: >-
      Can run in check mode; the API server then says what it would store. Before podwire and its kinds are
      installed, every object counts as missing.
    support: full
  diff_mode:
    description: Returns each object before and after, as the API server has and would have it.
    support: full
notes:
  - Runs on a control plane, with the administrator's credentials there. Needs no Python package on the node.
seealso:
  - module: podwire.ebpf.connectivity
"""

EXAMPLES = r"""
- name: The database answers to the shop alone
  podwire.ebpf.network_policy:
    definition:
      apiVersion: networking.k8s.io/v1
      kind: NetworkPolicy
      metadata:
        name: database
        namespace: shop
      spec:
        podSelector:
          matchLabels: {app: database}
        ingress:
          - from:
              - podSelector:
                  matchLabels: {app: shop}
            ports:
              - port: 5432
  become: true

- name: The cluster has the policies of this folder, and no others of this set
  podwire.ebpf.network_policy:
    src: policies/
    policy_set: production
    purge: true
  become: true

- name: From another machine, with a kubeconfig
  podwire.ebpf.network_policy:
    src: policies/database.yaml
    kubectl: /usr/local/bin/kubectl
    kubeconfig: ~/.kube/config
  delegate_to: localhost
"""

RETURN = r"""
objects:
  description: What was done with each object.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: Kind of the object.
      type: str
      sample: CiliumNetworkPolicy
    namespace:
      description: Namespace of the object, empty for a kind that has none.
      type: str
      sample: default
    name:
      description: Name of the object.
      type: str
      sample: rule1
    action:
      description: V(created), V(changed), V(deleted) or V(unchanged). In check mode what would be done.
      type: str
      sample: created
    resource_version:
      description: Version of the object in the API, empty for what was deleted.
      type: str
      sample: "48213"
versions:
  description: The resource version per kind that every node has to enforce.
  returned: success
  type: dict
  sample: {ciliumnetworkpolicies: 48213}
nodes:
  description: What each node enforces.
  returned: when O(wait) is set, not in check mode
  type: dict
  sample: {worker1: {networkpolicies: 100, ciliumnetworkpolicies: 48213, ciliumclusterwidenetworkpolicies:
    101}}
waited:
  description: How long it took until the last node enforced the policies, in seconds.
  returned: when O(wait) is set, not in check mode
  type: float
  sample: 0.21
lagging:
  description: The nodes that do not enforce the policies yet, with the reason.
  returned: when O(wait_timeout) is over
  type: list
  elements: str
  sample: ["worker2: ciliumnetworkpolicies at 48190, wanted 48213 (the API server does not answer)"]
invalid:
  description: Objects that the agents refuse to enforce, with the reason.
  returned: when there are such objects
  type: list
  elements: str
  sample: ["CiliumNetworkPolicy/default/rule1: spec.ingress[0]: toPorts and icmps exclude each other"]
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import policy_objects
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_cluster import Change, Policies
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_files import manifests
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_wait import Enforcement

ARGUMENTS = {
    "definition": {"type": "raw"},
    "src": {"type": "path"},
    "remote_src": {"type": "bool", "default": False},
    "namespace": {"type": "str", "default": "default"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "policy_set": {"type": "str"},
    "purge": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "float", "default": 60},
    "kubectl": {"type": "path"},
    "kubeconfig": {"type": "path"},
}


def definitions(params: dict[str, Any], kubectl: Kubectl) -> list[dict[str, Any]]:
    """The wanted objects. Text is parsed by kubectl: a node's Python knows no YAML."""
    given = params["definition"]
    documents: list[Any] = []
    if isinstance(given, str):
        try:
            documents.append(json.loads(given))
        except ValueError:
            documents += kubectl.parse_text(given)
    elif given is not None:
        documents.append(given)
    if params["src"]:
        for path in manifests(Path(params["src"])):
            documents += kubectl.parse(str(path))
    return policy_objects.flatten(documents)


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    kubectl = Kubectl(Layout(), program=params["kubectl"], kubeconfig=params["kubeconfig"])
    present, policy_set = params["state"] == "present", params["policy_set"] or ""
    wanted = policy_objects.complete(definitions(params, kubectl), params["namespace"], policy_set)
    if not wanted and not params["purge"]:
        raise PodwireError("no policy is given", "Name policies by definition or src.")
    policies = Policies(kubectl, check_mode=module.check_mode, warn=module.warn)
    change = (policies.present if present else policies.absent)(wanted, policy_set, params["purge"])
    result = report(change)
    if params["wait"] and not module.check_mode:
        try:
            waited = Enforcement(kubectl, params["wait_timeout"]).wait(change.versions, change.objects)
        except PodwireError as error:
            # They are in the API, and what follows must know.
            error.details = {**result, **error.details}
            raise
        for problem in waited.problems:
            module.warn(problem)
        result |= {"waited": waited.seconds, "nodes": waited.nodes}
    return result


def report(change: Change) -> dict[str, Any]:
    """The module's result."""
    listed = []
    for step in change.steps:
        now = change.objects.get(step.key) or {}
        listed.append(
            {
                "kind": step.key.kind,
                "namespace": step.key.namespace,
                "name": step.key.name,
                "action": policy_objects.DONE[step.action],
                "resource_version": (now.get("metadata") or {}).get("resourceVersion", ""),
            }
        )
    return {
        "changed": change.changed,
        "objects": listed,
        "versions": change.versions,
        "diff": [step.diff() for step in change.steps if step.action != policy_objects.KEEP],
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
        required_one_of=[("definition", "src", "policy_set")],
        required_if=[("purge", True, ["policy_set"])],
    )
    try:
        result = work(module)
    except PodwireError as error:
        module.fail_json(**error.result())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
