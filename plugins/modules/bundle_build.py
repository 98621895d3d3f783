#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.bundle_build: make what nodes install, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bundle_build
short_description: Build the bundle that nodes install podwire from
version_added: 0.1.0
author: The podwire authors
description:
  - Makes one archive with podwire, its dependencies as wheels for every supported Python, libbpf and the
    static CNI plugin, so that nodes need neither a network nor a compiler.
  - The result lies in a cache under a hash of everything that goes into it; what is there is not built again.
  - Runs on the controller (O(ignore:delegate_to=localhost)), with an interpreter that has pip, setuptools
    and wheel, such as the C(.venv) that C(make bootstrap) makes.
extends_documentation_fragment:
  - podwire.ebpf.build
attributes:
  check_mode:
    description: Can run in check mode, where it tells whether something would be built.
    support: full
  diff_mode:
    description: Returns the name of the bundle that was in the cache before and is afterwards.
    support: full
requirements:
  - gcc, libbpf, libelf and zlib, and a package index that pip reaches (on the controller)
seealso:
  - module: podwire.ebpf.release
  - module: podwire.ebpf.datapath_build
"""

EXAMPLES = r"""
- name: The node bundle is built
  podwire.ebpf.bundle_build:
    source: "{{ playbook_dir }}/.."
  delegate_to: localhost
  run_once: true
  register: bundle

- name: It is installed
  podwire.ebpf.release:
    name: "{{ bundle.name }}"
    bundle: /tmp/bundle.tar.gz
"""

RETURN = r"""
name:
  description: Name of the release, C(VERSION-HASH).
  returned: success
  type: str
  sample: 0.1.0-3f2a9c51d07e
path:
  description: The archive. In check mode, where it would be.
  returned: success
  type: str
  sample: /var/cache/podwire/bundle/0.1.0-3f2a9c51d07e/podwire-0.1.0-3f2a9c51d07e.tar.gz
log:
  description: What was built.
  returned: always
  type: list
  elements: str
  sample: ["building podwire's wheel, the CNI plugin and the node bundle"]
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import build_module, bundle


def main() -> None:
    module = AnsibleModule(argument_spec=build_module.ARGUMENTS, supports_check_mode=True)

    def build(cache: build_module.TellingCache) -> tuple[Path, str]:
        archive = bundle.build(Path(module.params["source"]), cache, cache.lines.append)
        return archive, archive.parent.name

    result = build_module.run(module, build)
    module.exit_json(**result, name=Path(result["path"]).parent.name)


if __name__ == "__main__":
    main()
