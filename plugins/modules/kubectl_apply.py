#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.kubectl_apply: Kubernetes objects by the cluster's own kubectl."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kubectl_apply
short_description: Apply or delete Kubernetes objects with the node's own kubectl
version_added: 0.1.0
author: The podwire authors
description:
  - Compares the objects with what the cluster has (C(kubectl diff)) and applies them only where they differ.
  - Runs on a control plane, with the administrator's credentials there.
  - Needs no Python package on the node, which is why podwire does not use C(kubernetes.core.k8s) for its own
    objects.
options:
  definition:
    description:
      - The objects, as YAML text with any number of documents.
    type: str
    required: true
  state:
    description:
      - Whether the objects should exist.
    type: str
    choices: [present, absent]
    default: present
  owner:
    description:
      - A label, C(key=value), of objects that may be changed or deleted.
      - When one of the objects exists without it, somebody else has made it. The whole definition is left
        alone then, with a warning.
    type: str
attributes:
  check_mode:
    description: >-
      Can run in check mode. Where there is no kubectl yet, because the cluster is not installed, the objects
      count as missing.
    support: full
  diff_mode:
    description: Returns what C(kubectl diff) prints.
    support: full
"""

EXAMPLES = r"""
- name: A namespace exists
  podwire.ebpf.kubectl_apply:
    definition: |
      apiVersion: v1
      kind: Namespace
      metadata:
        name: demo
  become: true

- name: A kind of objects exists, be it somebody else's
  podwire.ebpf.kubectl_apply:
    definition: "{{ lookup('ansible.builtin.file', 'ciliumnetworkpolicies.cilium.io.yaml') }}"
    owner: app.kubernetes.io/name=podwire
  become: true
"""

RETURN = r"""
objects:
  description: The objects that were changed, in kubectl's own words.
  returned: when something changed and the module is not in check mode
  type: list
  elements: str
  sample: ["serviceaccount/podwire-agent created"]
left_alone:
  description: Objects that exist and are somebody else's, because of whom nothing was done.
  returned: with O(owner)
  type: list
  elements: str
  sample: ["CustomResourceDefinition/ciliumnetworkpolicies.cilium.io"]
"""

import json
import os
import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import clean_environment
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout

ARGUMENTS = {
    "definition": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "owner": {"type": "str"},
}
TIMEOUT = 120
DIFFERENT = 1  # exit status of `kubectl diff` when there are differences; more is an error


def kubectl(module: AnsibleModule, *arguments: str, accept: tuple[int, ...] = (0,)) -> tuple[int, str]:
    """Run kubectl with the definition on standard input; return its status and output."""
    layout = Layout()
    command = [str(layout.snap / "kubectl"), f"--kubeconfig={layout.kubeconfig}", *arguments, "-f", "-"]
    try:
        done = subprocess.run(
            command,
            input=module.params["definition"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            env=clean_environment(os.environ),
        )
    except subprocess.TimeoutExpired:
        module.fail_json(
            msg=f"{' '.join(command)} did not end within {TIMEOUT} s. Is the API server of this node up?"
        )
    if done.returncode not in accept or (done.returncode and done.stderr.startswith(("error", "Error"))):
        said = (done.stderr or done.stdout).strip()
        module.fail_json(msg=f"{' '.join(command)} ended with {done.returncode}: {said}")
    return done.returncode, done.stdout


def others(shown: str, owner: str) -> list[str]:
    """Objects without the label, of what kubectl shows as JSON (one object, a list, or nothing)."""
    value = json.loads(shown) if shown.strip() else {"items": []}
    key, _, wanted = owner.partition("=")
    return [
        f"{item['kind']}/{item['metadata']['name']}"
        for item in value.get("items", [value])
        if (item["metadata"].get("labels") or {}).get(key) != wanted
    ]


def left_alone(module: AnsibleModule) -> list[str]:
    """Objects of the definition that are somebody else's."""
    owner = module.params["owner"]
    return others(kubectl(module, "get", "--ignore-not-found", "-o", "json")[1], owner) if owner else []


def apply(module: AnsibleModule) -> dict[str, object]:
    status, text = kubectl(module, "diff", accept=(0, DIFFERENT))
    result: dict[str, object] = {"changed": status == DIFFERENT, "diff": {"prepared": text}}
    if result["changed"] and not module.check_mode:
        result["objects"] = kubectl(module, "apply")[1].splitlines()
    return result


def delete(module: AnsibleModule) -> dict[str, object]:
    found = kubectl(module, "get", "--ignore-not-found", "-o", "name")[1].split()
    result: dict[str, object] = {
        "changed": bool(found),
        "diff": {"before": "\n".join(found) + "\n" if found else "", "after": ""},
    }
    if found and not module.check_mode:
        result["objects"] = kubectl(module, "delete", "--ignore-not-found")[1].splitlines()
    return result


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    present = module.params["state"] == "present"
    program = Layout().snap / "kubectl"
    if not program.exists():
        if module.check_mode or not present:
            wanted = module.params["definition"] if present else ""
            module.exit_json(changed=present, diff={"before": "", "after": wanted})
        module.fail_json(msg=f"{program} does not exist. Install MicroK8s first (role podwire.ebpf.microk8s)")
    found = left_alone(module)
    if found:
        owner = module.params["owner"]
        module.warn(f"{', '.join(found)} exists without the label {owner}: somebody else's, left alone.")
        module.exit_json(changed=False, left_alone=found)
    answer = apply(module) if present else delete(module)
    module.exit_json(**answer, **({"left_alone": []} if module.params["owner"] else {}))


if __name__ == "__main__":
    main()
