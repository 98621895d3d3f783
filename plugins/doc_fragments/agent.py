# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation shared by the modules that talk to a node's agent."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  socket:
    description:
      - Unix socket of the node's agent. It belongs to root, so the task needs C(become).
    type: path
    default: /run/podwire/agent.sock
notes:
  - Runs on the node. Needs no Python package there beyond the standard library.
  - The agent is installed by the role C(podwire.ebpf.agent).
"""
