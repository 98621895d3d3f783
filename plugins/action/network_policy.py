# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""The controller's half of module network_policy: reads policies from files there, and hands the node
objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_files import manifests
from ansible_collections.podwire.ebpf.plugins.module_utils.policy_objects import flatten

MODULE = "podwire.ebpf.network_policy"


def parse(text: str, name: str) -> list[dict[str, Any]]:
    """The objects of YAML text. ``name`` is what the text is called in an error."""
    try:
        return flatten(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError as error:
        raise PodwireError(
            f"{name} is no YAML: {' '.join(str(error).split())}", "Correct it there."
        ) from error
    except PodwireError as error:
        raise PodwireError(f"{name}: {error}", error.hint) from error


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            if isinstance(arguments.get("definition"), str):
                arguments["definition"] = parse(arguments["definition"], "definition")
            if arguments.get("src") and not boolean(arguments.get("remote_src", False), strict=False):
                found = self._from_files(str(arguments.pop("src")))
                arguments["definition"] = [arguments.get("definition") or [], found]
        except PodwireError as error:
            return {**result, "failed": True, "changed": False, **error.result()}
        result.update(self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars))
        return result

    def _from_files(self, source: str) -> list[dict[str, Any]]:
        try:
            place = Path(self._find_needle("files", source))
        except AnsibleError as error:
            raise PodwireError(
                f"{source} is not there: {error}",
                "It is looked for on the controller, unless remote_src is set.",
            ) from error
        objects: list[dict[str, Any]] = []
        for path in manifests(place):
            objects += parse(path.read_text(encoding="utf-8"), str(path))
        return objects
