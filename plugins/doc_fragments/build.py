# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Documentation shared by the modules that build something on the controller."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  source:
    description:
      - Directory of the collection or checkout.
    type: path
    required: true
  cache:
    description:
      - Directory of the cache. Defaults to the environment variable E(PODWIRE_CACHE), else
        C(/var/cache/podwire).
    type: path
"""
