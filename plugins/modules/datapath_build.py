#!/usr/bin/python
# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Ansible module podwire.ebpf.datapath_build: compile the datapath on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: datapath_build
short_description: Compile the eBPF datapath on the controller
version_added: 0.1.0
author: The podwire authors
description:
  - Compiles C(bpf/*.bpf.c) below O(source) to CO-RE objects that run on every supported kernel, with warnings
    as errors.
  - The result lies in a cache under a hash of everything that goes into it (sources, headers, flags,
    compiler). What is there already is not built again, so an unchanged tree costs a few file reads.
  - Runs on the controller (O(ignore:delegate_to=localhost)). Nodes need no compiler.
options:
  compiler:
    description:
      - Name or path of clang, 14 or newer.
    type: str
    default: clang
extends_documentation_fragment:
  - podwire.ebpf.build
attributes:
  check_mode:
    description: Can run in check mode, where it tells whether something would be compiled.
    support: full
  diff_mode:
    description: Returns the hash of the objects that were in the cache before and are afterwards.
    support: full
requirements:
  - clang >= 14, libbpf headers (on the controller)
seealso:
  - module: podwire.ebpf.datapath
  - module: podwire.ebpf.bundle_build
"""

EXAMPLES = r"""
- name: The datapath is compiled
  podwire.ebpf.datapath_build:
    source: "{{ playbook_dir }}/.."
  delegate_to: localhost
  run_once: true
  register: build

- name: Where the objects are
  ansible.builtin.debug:
    var: build.path
"""

RETURN = r"""
hash:
  description: Hash of all that went into the objects.
  returned: success
  type: str
  sample: 5c2f7d1e0a9b4c3d8e6f1a2b3c4d5e6f
path:
  description: Directory with the objects and C(manifest.json). In check mode, where it would be.
  returned: success
  type: str
  sample: /var/cache/podwire/datapath/5c2f7d1e0a9b4c3d8e6f1a2b3c4d5e6f
archive:
  description: One file with all of that, to copy to a node.
  returned: when they are built
  type: str
  sample: /var/cache/podwire/datapath-archive/5c2f7d1e0a9b4c3d8e6f1a2b3c4d5e6f/objects.tar
objects:
  description: Checksums (SHA-256) of the objects by file name.
  returned: when they are built
  type: dict
  sample: {"endpoint.bpf.o": "0f3a...", "host.bpf.o": "9bd1...", "socket.bpf.o": "c40e..."}
messages:
  description: What the compiler complained about.
  returned: when it does not compile
  type: list
  elements: dict
  sample: [{"file": "endpoint.bpf.c", "line": 41, "kind": "error", "text": "use of undeclared identifier
  'x'"}]
"""

import tarfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.podwire.ebpf.plugins.module_utils import build_module, datapath_build

ARGUMENTS = {
    **build_module.ARGUMENTS,
    "compiler": {"type": "str", "default": "clang"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)

    def build(cache: build_module.TellingCache) -> tuple[Path, str]:
        source = Path(module.params["source"]) / "bpf"
        entry = datapath_build.build(source, cache, cache.lines.append, compiler=module.params["compiler"])
        return entry, entry.name

    result = build_module.run(module, build)
    objects = Path(result["path"])
    if objects.is_dir():
        result["objects"] = datapath_build.read_manifest(objects)["objects"]
        result["archive"] = build_module.run(module, lambda cache: pack(cache, objects))["path"]
    module.exit_json(**result, hash=objects.name)


def pack(cache: build_module.TellingCache, objects: Path) -> tuple[Path, str]:
    """One file to copy to a node. The manifest is its last member: where that is, all others are."""
    names = [*sorted(path.name for path in objects.glob("*.o")), datapath_build.MANIFEST]

    def write(directory: Path) -> None:
        with tarfile.open(directory / "objects.tar", "w") as archive:
            for name in names:
                archive.add(objects / name, name, filter=anonymous)

    entry = cache.build("datapath-archive", objects.name, write)
    return entry / "objects.tar", objects.name


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without this machine's users and times."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o644
    return member


if __name__ == "__main__":
    main()
