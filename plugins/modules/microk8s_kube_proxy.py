#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s_kube_proxy: kube-proxy's rules are gone, or back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s_kube_proxy
short_description: Wait until kube-proxy's rules are gone from a MicroK8s node, or back
version_added: 0.1.0
author: The podwire authors
description:
  - MicroK8s cannot run without kube-proxy. With the argument C(cleanup=true), which
    M(podwire.ebpf.microk8s_args) sets, it deletes its rules when its daemon starts, and stays away.
  - Waits until that has happened, in both flavours of iptables and in nftables, and removes what it left
    behind, such as its canaries, and rules that an earlier kube-proxy wrote by another flavour.
options:
  state:
    description:
      - With V(absent), kube-proxy's rules are gone. Refused while kube-proxy is on, since it would make
        them again.
      - With V(present), kube-proxy serves again.
    type: str
    choices: [absent, present]
    required: true
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: Shows the chains and tables before and after.
    support: full
"""

EXAMPLES = r"""
- name: kube-proxy gives way
  podwire.ebpf.microk8s_args:
    file: kube-proxy
    args:
      cleanup: "true"
  become: true

- name: Its rules are gone
  podwire.ebpf.microk8s_kube_proxy:
    state: absent
  become: true
"""

RETURN = r"""
removed:
  description: Chains and tables that kube-proxy had left behind, and that were removed.
  returned: for O(state=absent)
  type: list
  elements: str
  sample: [iptables-legacy mangle/KUBE-PROXY-CANARY]
rules:
  description: Chains and tables of kube-proxy that are there now.
  returned: always
  type: list
  elements: str
  sample: []
"""

import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kube_proxy import (
    CLEANUP,
    POLL_INTERVAL,
    Rules,
    not_there,
    serves,
    still_there,
    wait_for,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import wait_ready

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "state": {"type": "str", "choices": ["absent", "present"], "required": True},
}
#: How long kube-proxy may take to delete its rules before that counts as failed, in seconds.
CLEANUP_SECONDS = 60.0
#: Cleaning up is over when kubelite has run for so long, in seconds.
SETTLED_SECONDS = 10.0
UNIT = "snap.microk8s.daemon-kubelite.service"


def told(before: list[str], after: list[str], **more: Any) -> dict[str, Any]:
    diff = {"before": "\n".join([*before, ""]), "after": "\n".join([*after, ""])}
    return {"changed": False, "rules": after, "diff": diff, **more}


def gone(node: Node, rules: Rules) -> dict[str, Any]:
    if node.check_mode:
        found = rules.found()
        return told(found, [], changed=bool(found), removed=found)
    if node.layout.argument("kube-proxy", CLEANUP) != "true":
        raise PodwireError(
            "kube-proxy is on: it would make its rules again",
            f'Set {CLEANUP}: "true" in the file kube-proxy first, by podwire.ebpf.microk8s_args.',
        )
    deadline = min(node.deadline, time.monotonic() + CLEANUP_SECONDS)
    before, done = wait_for(rules.found, lambda found: not serves(found), deadline)
    if not done:
        raise still_there(before)
    settle(node)
    removed = rules.remove()
    return told(list(before), rules.found(), changed=bool(removed), removed=removed)


def settle(node: Node) -> None:
    """Wait until kubelite has survived kube-proxy's cleaning up.

    An error in it ends the whole process, such as when kubelet, which starts beside it, makes a chain again
    that it is about to delete. Then systemd starts kubelite again, and it succeeds.
    """
    while (left := SETTLED_SECONDS - uptime(UNIT)) > 0 and time.monotonic() < node.deadline:
        time.sleep(min(left, POLL_INTERVAL))
    wait_ready(node.kubectl, node.snapd, deadline=node.deadline)


def uptime(unit: str) -> float:
    """For how many seconds a service has been active; 0 when it is not."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=ActiveState,ActiveEnterTimestampMonotonic", unit],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    since = facts.get("ActiveEnterTimestampMonotonic", "")
    if facts.get("ActiveState") != "active" or not since.isdecimal():
        return 0.0
    return time.clock_gettime(time.CLOCK_MONOTONIC) - int(since) / 1e6


def back(node: Node, rules: Rules) -> dict[str, Any]:
    if node.check_mode:
        found = rules.found()
        return told(found, found)
    found, done = wait_for(rules.found, serves, node.deadline)
    if not done:
        raise not_there()
    return told(list(found), list(found))


def work(node: Node) -> dict[str, Any]:
    if not node.layout.installed:
        if node.check_mode:
            return told([], [])
        node.require_installed()
    rules = Rules.of(node.layout.root, node.layout.snap)
    return gone(node, rules) if node.params["state"] == "absent" else back(node, rules)


def main() -> None:
    run(AnsibleModule(argument_spec=SPEC, supports_check_mode=True), work)


if __name__ == "__main__":
    main()
