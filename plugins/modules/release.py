#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.release: install a bundle on a node, switch to it, drop old ones."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install a release of podwire on a node and switch to it
version_added: 0.1.0
author: The podwire authors
description:
  - Unpacks a bundle that M(podwire.ebpf.bundle_build) made on the controller, completes it with a virtual
    environment whose packages come from the wheels in the bundle, and points the link C(current) at it in
    one atomic step.
  - Needs neither a network nor a compiler on the node.
  - An installation that fails or is interrupted is never used; the next run clears it away.
  - Old releases are removed, except those that O(keep) holds back as a way back.
options:
  state:
    description:
      - V(present) installs O(name) and makes it the release in use, V(absent) removes every release and
        every link.
    type: str
    choices: [present, absent]
    default: present
  name:
    description:
      - Name of the release, C(VERSION-HASH), as M(podwire.ebpf.bundle_build) returns it. Needed for
        V(present).
    type: str
  bundle:
    description:
      - Path of the bundle on the node. Only read when the release is not installed yet.
    type: path
  root:
    description:
      - Directory that holds the releases.
    type: path
    default: /opt/podwire
  keep:
    description:
      - How many releases to leave, the one in use included.
    type: int
    default: 2
  links:
    description:
      - Links to keep pointing into the release in use, as a mapping of path to target.
    type: dict
    default: {}
  python:
    description:
      - Interpreter of the virtual environment, 3.10 or newer. By default the one that runs this module.
    type: path
attributes:
  check_mode:
    description: Can run in check mode and return the steps without taking them.
    support: full
  diff_mode:
    description: Returns the releases and links before and after.
    support: full
seealso:
  - module: podwire.ebpf.bundle_build
"""

EXAMPLES = r"""
- name: The release is installed and in use
  podwire.ebpf.release:
    name: 0.1.0-3f2a9c51d07e
    bundle: /opt/podwire/0.1.0-3f2a9c51d07e.tar.gz
    links:
      /usr/local/bin/podwire: /opt/podwire/current/bin/podwire
  become: true

- name: Nothing of podwire's programs is left
  podwire.ebpf.release:
    state: absent
    links:
      /usr/local/bin/podwire: /opt/podwire/current/bin/podwire
  become: true
"""

RETURN = r"""
steps:
  description: What was done, or in check mode would be done, in order.
  returned: always
  type: list
  elements: str
  sample: ["install 0.1.0-3f2a9c51d07e", "switch 0.1.0-3f2a9c51d07e", "link /usr/local/bin/podwire"]
current:
  description: The release in use afterwards, empty when there is none.
  returned: success
  type: str
  sample: 0.1.0-3f2a9c51d07e
previous:
  description: The release that was in use before, empty when there was none.
  returned: success
  type: str
  sample: 0.1.0-9b1de0a44c02
path:
  description: Directory of the release in use.
  returned: success
  type: str
  sample: /opt/podwire/0.1.0-3f2a9c51d07e
releases:
  description: The releases that are installed afterwards.
  returned: success
  type: list
  elements: str
  sample: ["0.1.0-3f2a9c51d07e", "0.1.0-9b1de0a44c02"]
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import release
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "name": {"type": "str"},
    "bundle": {"type": "path"},
    "root": {"type": "path", "default": "/opt/podwire"},
    "keep": {"type": "int", "default": 2},
    "links": {"type": "dict", "default": {}},
    "python": {"type": "path"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS, required_if=[("state", "present", ["name"])], supports_check_mode=True
    )
    options = module.params
    root, links = Path(options["root"]), {str(path): str(target) for path, target in options["links"].items()}
    if options["name"] and not release.NAME_PATTERN.fullmatch(options["name"]):
        module.fail_json(msg=f"name: {options['name']!r} is not VERSION-HASH, such as 0.1.0-3f2a9c51d07e")
    have = release.read(root, links)
    if options["state"] == "present":
        steps = release.plan_present(options["name"], have, keep=options["keep"], links=links)
    else:
        steps = release.plan_absent(have)
    want = release.after(have, steps, links)
    try:
        if not module.check_mode:
            bundle = Path(options["bundle"]) if options["bundle"] else None
            release.apply(
                steps, root=root, bundle=bundle, python=options["python"] or sys.executable, links=links
            )
    except PodwireError as error:
        module.fail_json(changed=False, steps=[str(step) for step in steps], **error.result())
    module.exit_json(
        changed=bool(steps),
        steps=[str(step) for step in steps],
        current=want.current,
        previous=have.current,
        path=str(root / want.current) if want.current else "",
        releases=list(want.releases),
        diff={"before": release.describe(have), "after": release.describe(want)},
    )


if __name__ == "__main__":
    main()
