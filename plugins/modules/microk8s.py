#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.microk8s: the MicroK8s snap on one node, through snapd's REST API."""

from __future__ import annotations

DOCUMENTATION = r"""
module: microk8s
short_description: Install, refresh or remove MicroK8s on a node
version_added: 0.1.0
author: The podwire authors
description:
  - Installs the snap C(microk8s) from a channel of the store or from a local file, by snapd's REST API on its
    unix socket, follows snapd's tasks and waits until the node is ready.
  - A node is ready when its API server says so on C(/readyz) (control plane only), its Node object is Ready,
    and its kubelet has spoken to the API since the snap was changed, with the snap's version.
  - Does nothing when the snap already follows the wanted channel, or is the wanted file byte for byte.
  - A change of snapd that already works on the snap is waited for.
options:
  state:
    description:
      - V(present) installs the snap, or brings it to the wanted channel or file.
      - V(absent) removes it. Give the network back first (M(podwire.ebpf.microk8s_network)), because the
        snap's own removal cleans only what MicroK8s made.
    type: str
    choices: [present, absent]
    default: present
  channel:
    description:
      - Channel of the store, such as V(1.28/stable). A bare track means its stable risk. A snap that follows
        another channel is refreshed to this one.
      - Without O(channel) and O(snap) an installed snap is left at what it is, and a missing one comes from
        V(latest/stable).
    type: str
  snap:
    description:
      - A snap file on the node, used instead of the store. When the assertions that C(snap download) makes
        lie beside it (same name, ending C(.assert)), snapd checks them and the snap counts as signed.
      - Uploaded over an installed snap it upgrades that.
    type: path
  snap_sha256:
    description:
      - SHA-256 of O(snap) in hex. With it an installed snap is recognised although the file is no longer on
        the node.
    type: str
  prerequisites:
    description:
      - Snap files on the node to install first, in this order, for nodes that do not reach the store.
        MicroK8s needs its base (C(core20) or C(core22)) and C(snapd).
      - A snap of that name that came from the store is left alone.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file.
        type: path
        required: true
      sha256:
        description: Its SHA-256 in hex, which makes the file unnecessary once it is installed.
        type: str
  classic:
    description: Allow classic confinement. MicroK8s needs it, except its C(-strict) tracks, which podwire
      does not support.
    type: bool
    default: true
  dangerous:
    description: Accept a O(snap) without assertions.
    type: bool
    default: true
  hold:
    description:
      - Hold automatic refreshes, because snapd may otherwise refresh all nodes of a cluster at once. A
        refresh by this module still works. It needs snapd 2.58; where it cannot be done the result's C(hold)
        says why.
    type: bool
    default: true
  purge:
    description:
      - With O(state=absent), remove all data too and take no snapshot of it, which is slow and may fail. Also
        take off the host what the snap's own removal leaves (C(KUBE-) and C(cali-) chains, routes and IP sets
        of the default network).
    type: bool
    default: false
  wait:
    description: Wait until the node is ready.
    type: bool
    default: true
  network:
    description: Whether being ready includes a working pod network. Set it to V(false) when another task
      provides that later.
    type: bool
    default: true
extends_documentation_fragment:
  - podwire.ebpf.microk8s
attributes:
  diff_mode:
    description: Shows version, revision and channel before and after.
    support: full
seealso:
  - module: podwire.ebpf.microk8s_join
  - module: podwire.ebpf.microk8s_network
"""

EXAMPLES = r"""
- name: MicroK8s 1.28 from the store
  podwire.ebpf.microk8s:
    channel: 1.28/stable
  become: true

- name: MicroK8s from files, on a node without the store
  podwire.ebpf.microk8s:
    snap: /var/cache/snaps/microk8s_1.28.snap
    prerequisites:
      - path: /var/cache/snaps/core20.snap
      - path: /var/cache/snaps/snapd.snap
    timeout: 600
  become: true

- name: No MicroK8s, and none of its data
  podwire.ebpf.microk8s:
    state: absent
    purge: true
  become: true
"""

RETURN = r"""
version:
  description: Version of the installed snap.
  returned: when it is installed
  type: str
  sample: v1.28.15
revision:
  description: Its revision. Those of unsigned local files begin with x.
  returned: when it is installed
  type: str
  sample: x1
channel:
  description: The channel it follows; empty for a local file.
  returned: when it is installed
  type: str
  sample: 1.28/stable
role:
  description: V(worker) for a node that joined as one, else V(control_plane).
  returned: when it is installed
  type: str
  sample: control_plane
node_name:
  description: The name under which kubelet registers the node.
  returned: when it is installed
  type: str
  sample: cp1
ready:
  description: Whether the node is ready. Not asked for with O(wait=false).
  returned: when it is installed
  type: bool
  sample: true
hold:
  description: Whether automatic refreshes are held, and why not.
  returned: when it is installed
  type: dict
  sample: {held: false, reason: "installed from an unsigned local file, which snapd never refreshes"}
steps:
  description: What was done (in check mode, what would be), with seconds and snapd's tasks.
  returned: always
  type: list
  elements: dict
  sample:
    - action: sideload
      snap: microk8s
      file: /var/cache/snaps/microk8s_1.28.snap
      seconds: 4.55
      tasks:
        - {kind: mount-snap, summary: "Mount snap \"microk8s\" (unset)", status: Done, seconds: 0.41}
traces:
  description: What was taken off the host besides the snap.
  returned: when it was removed with O(purge=true)
  type: dict
  sample: {chains: [iptables-legacy filter/KUBE-FORWARD]}
seconds:
  description: How long installing and waiting took.
  returned: always
  type: dict
  sample: {snap: 6.1, ready: 14.2}
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import microk8s_install as install
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import SNAP
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_module import ARGUMENTS, Node, run
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_ready import look, wait_ready
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_takeover import (
    SYSCTL_FILE,
    Takeover,
    read_text,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_traces import (
    DefaultNetwork,
    Host,
    Traces,
    from_conflists,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import SnapdUnavailableError

SPEC: dict[str, dict[str, Any]] = {
    **ARGUMENTS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "channel": {"type": "str"},
    "snap": {"type": "path"},
    "snap_sha256": {"type": "str"},
    "prerequisites": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "path", "required": True}, "sha256": {"type": "str"}},
    },
    "classic": {"type": "bool", "default": True},
    "dangerous": {"type": "bool", "default": True},
    "hold": {"type": "bool", "default": True},
    "purge": {"type": "bool", "default": False},
    "wait": {"type": "bool", "default": True},
    "network": {"type": "bool", "default": True},
}


def wanted_from(params: dict[str, Any], exists: bool) -> install.Wanted:
    """The module's arguments as the plan's terms."""
    file = install.WantedFile(params["snap"], params["snap_sha256"]) if params["snap"] else None
    channel = params["channel"]
    if file is None and channel is None and not exists:
        channel = "latest/stable"
    return install.Wanted(
        present=params["state"] == "present",
        channel=channel,
        file=file,
        prerequisites=tuple(
            install.WantedFile(item["path"], item["sha256"]) for item in params["prerequisites"]
        ),
        classic=params["classic"],
        dangerous=params["dangerous"],
        hold=params["hold"],
        purge=params["purge"],
    )


def described(record: dict[str, Any] | None) -> dict[str, Any]:
    """One side of the diff."""
    if record is None:
        return {"installed": False}
    return {
        "installed": True,
        "version": record.get("version", ""),
        "revision": record.get("revision", ""),
        "channel": record.get("tracking-channel", ""),
        "status": record.get("status", ""),
    }


def without_snapd(node: Node) -> dict[str, Any] | None:
    """The result on a machine that has no snapd and needs none: nothing to remove, or check mode before it is
    installed.
    """
    try:
        node.snapd.version()
    except SnapdUnavailableError:
        present = node.params["state"] == "present"
        if present and not node.check_mode:
            raise
        steps = (
            [{"action": "sideload" if node.params["snap"] else "install", "snap": SNAP}] if present else []
        )
        return {"changed": present, "steps": steps, "seconds": {}}
    return None


class Leftovers:
    """What removing the snap leaves on the host. Made before the removal, while the node's files still
    tell.
    """

    def __init__(self, node: Node) -> None:
        layout = node.layout
        takeover = Takeover(layout, dry=True)
        confs = [read_text(layout.cni_conf / name) for name in takeover.default_conf()]
        known = from_conflists(confs)
        recorded = takeover.record.network
        self.sysctl = layout.root / SYSCTL_FILE if takeover.record.created_sysctl else None
        self.network = DefaultNetwork(known.names + recorded.names, known.bridges + recorded.bridges)
        self.cluster_cidr = layout.argument("kube-proxy", "cluster-cidr") or "10.1.0.0/16"
        self.host = Host.of(layout.root, layout.snap)

    def remove(self) -> Traces:
        """Take it off the host; return what it was."""
        if self.sysctl is not None:
            self.sysctl.unlink(missing_ok=True)
        return self.host.clean(self.network, self.cluster_cidr, dry=False, kubernetes=True)


def work(node: Node) -> dict[str, Any]:
    began = time.monotonic()
    nothing = without_snapd(node)
    if nothing is not None:
        return nothing
    if not node.check_mode:
        node.snapd.wait_idle(SNAP, deadline=node.deadline)
    before = node.snapd.snap(SNAP)
    wanted = wanted_from(node.params, before is not None)
    have = install.installed(before, wanted)
    version = node.snapd.version()
    prerequisites = install.prerequisite_steps(node.snapd, wanted.prerequisites) if wanted.present else []
    steps = install.plan(wanted, have, prerequisites, version)
    result: dict[str, Any] = {"changed": bool(steps)}
    since = 0.0
    leftovers = Leftovers(node) if steps and wanted.purge and not wanted.present else None
    if node.check_mode:
        result["steps"] = [{"action": step.action, "snap": step.snap} for step in steps]
        after = before
        result["diff"] = {"before": described(before), "after": predicted(before, steps)}
    else:
        if any(step.action in ("install", "sideload", "refresh") for step in steps):
            install.check_confinement(node.snapd, wanted)
        if any(step.snap == SNAP and step.action != "hold" for step in steps):
            since = time.time()
        result["steps"] = install.carry_out(node.snapd, wanted, steps, deadline=node.deadline)
        if leftovers is not None:
            traces = leftovers.remove()
            result["traces"] = traces.as_dict()
            for warning in traces.warnings:
                node.module.warn(warning)
        after = node.snapd.snap(SNAP)
        result["diff"] = {"before": described(before), "after": described(after)}
    result["seconds"] = {"snap": round(time.monotonic() - began, 2)}
    if after is None or not wanted.present:
        return result
    result.update(
        version=after.get("version", ""),
        revision=str(after.get("revision", "")),
        channel=after.get("tracking-channel", ""),
        role=node.layout.role,
        node_name=node.layout.node_name,
        hold=hold_report(after, wanted, version),
    )
    began = time.monotonic()
    if node.check_mode:
        result["ready"] = look(node.kubectl, network=node.params["network"]).ready
    elif node.params["wait"]:
        wait_ready(
            node.kubectl,
            node.snapd,
            deadline=node.deadline,
            since=since,
            version=after.get("version", ""),
            network=node.params["network"],
        )
        result["ready"] = True
    result["seconds"]["ready"] = round(time.monotonic() - began, 2)
    return result


def predicted(before: dict[str, Any] | None, steps: list[install.Step]) -> dict[str, Any]:
    """The diff's other side in check mode."""
    after = described(before)
    for step in steps:
        if step.snap != SNAP:
            continue
        if step.action == "remove":
            return {"installed": False}
        if step.action in ("install", "refresh"):
            after = {**after, "installed": True, "channel": step.channel}
        elif step.action == "sideload":
            after = {**after, "installed": True, "channel": "", "file": step.file}
        elif step.action == "enable":
            after = {**after, "status": "active"}
    return after


def hold_report(record: dict[str, Any], wanted: install.Wanted, version: str) -> dict[str, Any]:
    """Whether refreshes are held, and the reason when they are not."""
    if install.is_held(record):
        return {"held": True, "reason": ""}
    return {
        "held": False,
        "reason": install.hold_refusal(wanted, str(record["revision"]).startswith("x"), version),
    }


def main() -> None:
    run(
        AnsibleModule(
            argument_spec=SPEC,
            supports_check_mode=True,
            mutually_exclusive=[("channel", "snap")],
            required_by={"snap_sha256": "snap"},
        ),
        work,
    )


if __name__ == "__main__":
    main()
