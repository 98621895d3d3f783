# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Options that the MicroK8s modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of C(plugins/module_utils/microk8s_module.py)."""

    DOCUMENTATION = r"""
options:
  timeout:
    description:
      - How long everything the module waits for may take together, in seconds. When the time is up the module
        fails and tells what was reached; what snapd or Kubernetes had begun goes on, and another run waits
        for it.
    type: int
    default: 900
  snapd_socket:
    description: Where snapd listens.
    type: path
    default: /run/snapd.socket
attributes:
  check_mode:
    description: Says what would be done, and does nothing. It works before MicroK8s is installed, too.
    support: full
requirements:
  - root on the node
  - snapd on the node
"""
