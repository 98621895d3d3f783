# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Call the node's own ``podwire`` command and read its JSON: the logic that runs on the node lives there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

COMMAND = "/opt/podwire/current/bin/podwire"
TIMEOUT = 120.0
OUTPUT_LIMIT = 4000


class NotInstalledError(PodwireError):
    """The node has no podwire command."""


class NodeCli:
    """The command of the release in use. ``timeout`` is in seconds and holds for one call."""

    def __init__(self, command: str = COMMAND, timeout: float = TIMEOUT) -> None:
        self.command = command
        self.timeout = timeout

    @property
    def installed(self) -> bool:
        return Path(self.command).exists()

    def call(self, *arguments: str, accept: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run ``podwire ARGUMENTS -o json`` and return its answer.

        A status outside ``accept`` raises with the command's own message and hint.
        """
        command = [self.command, *arguments, "-o", "json"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self.timeout,
                check=False,
            )
        except FileNotFoundError as error:
            raise NotInstalledError(
                f"{self.command} does not exist on this node",
                "Install the release first (role podwire.ebpf.agent, tasks_from: install).",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PodwireError(
                f"{' '.join(command)} did not end within {self.timeout:g} s",
                "Another change of the datapath may hold its lock: see who runs podwire (ps -ef).",
            ) from error
        answer = self._decode(done.stdout)
        if done.returncode not in accept or answer is None:
            raise self._failure(command, done, answer)
        return answer

    @staticmethod
    def _decode(text: str) -> dict[str, Any] | None:
        try:
            answer = json.loads(text)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    @staticmethod
    def _failure(
        command: list[str], done: subprocess.CompletedProcess[str], answer: dict[str, Any] | None
    ) -> PodwireError:
        details: dict[str, object] = {"command": command, "status": done.returncode}
        if answer and answer.get("error"):
            return PodwireError(str(answer["error"]), str(answer.get("hint") or ""), details)
        said = (done.stderr.strip() or done.stdout.strip())[-OUTPUT_LIMIT:] or "nothing"
        return PodwireError(
            f"{' '.join(command[:3])} ended with {done.returncode} and said: {said}", details=details
        )
