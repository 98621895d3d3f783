"""Run ansible-playbook against a lab, with its progress shown play by play."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import process
from lab.config import ROOT, Lab
from lab.errors import LabError
from lab.process import StoppedError
from lab.progress import Progress, Step

_PLAY = re.compile(r"^PLAY \[(.*?)\]")
_TASK = re.compile(r"^(?:TASK|RUNNING HANDLER) \[(.*?)\]")
_FAILED = re.compile(r"^(?:fatal:|failed:|ERROR|\[ERROR\])")
_END = re.compile(r"^(?:PLAY RECAP|NO MORE HOSTS LEFT)")
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)")


def environment(lab: Lab) -> dict[str, str]:
    """Environment for Ansible's commands: this checkout's configuration, this lab's inventory."""
    return {
        **os.environ,
        "PATH": f"{ROOT / '.venv/bin'}:{os.environ.get('PATH', '')}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "LAB": lab.name,
    }


class Follower:
    """Reads ansible-playbook's output: which play and task runs, what failed, what changed. Pure."""

    def __init__(self) -> None:
        self.play = ""
        self.task = ""
        self.failures: list[str] = []
        self.changed: dict[str, int] = {}
        self._failing = False

    def feed(self, line: str) -> str:
        """Take a line; returns the name of a play when it begins one."""
        if match := _PLAY.match(line):
            self.play, self.task, self._failing = match[1], "", False
            return self.play
        if match := _TASK.match(line):
            self.task, self._failing = match[1], False
        elif match := _RECAP.match(line):
            self.changed[match[1]] = int(match[3])
        elif _END.match(line):
            self._failing = False
        elif _FAILED.match(line):
            self._failing = True
            self.failures.append(f"task [{self.task}]" if self.task else f"play [{self.play}]")
            self.failures.append(line)
        elif self._failing and line.strip():
            self.failures.append(line)
        return ""


def play(lab: Lab, progress: Progress, playbook: str, arguments: Sequence[str] = ()) -> Follower:
    """Run a playbook; each of its plays is a step. ``LabError`` with the failed task's words."""
    follower = Follower()
    log = lab.state / "logs" / f"{playbook.rsplit('/', 1)[-1].removesuffix('.yml')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        ROOT / ".venv/bin/ansible-playbook",
        "-i",
        ROOT / "inventories/lab",
        ROOT / playbook,
        *arguments,
    ]
    times = log.with_suffix(".times")
    with _Clock(times) as clock, contextlib.ExitStack() as running, log.open("w") as file:
        steps = _Steps(progress, running)

        def take(line: str) -> None:
            file.write(line + "\n")
            file.flush()
            begun = follower.feed(line)
            if begun:
                steps.begin(begun)
            steps.tell(follower.task)
            clock.see(f"{follower.play} | {follower.task}")

        try:
            process.stream(command, take, what=playbook, env=environment(lab), cwd=ROOT)
        except StoppedError:
            raise
        except LabError as error:
            told = "\n".join(f"  {line}" for line in follower.failures[:40]) or str(error)
            raise LabError(
                f"ansible-playbook {playbook} failed:\n{told}",
                "Fix the cause and run make up again: it goes on where it stopped",
                log,
            ) from error
    return follower


class _Clock:
    """How long each task took, longest first, in a file: what to look at when a rollout is slow."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._task = ""
        self._since = time.monotonic()
        self._times: list[tuple[float, str]] = []

    def __enter__(self) -> _Clock:
        return self

    def __exit__(self, *_: object) -> None:
        self.see("")
        lines = [f"{seconds:8.1f} s  {task}\n" for seconds, task in sorted(self._times, reverse=True)]
        self._file.write_text("".join(lines))

    def see(self, task: str) -> None:
        """The task that runs now."""
        if task != self._task:
            now = time.monotonic()
            if self._task:
                self._times.append((now - self._since, self._task))
            self._task, self._since = task, now


class _Steps:
    """The play that runs now, as a step of the progress display."""

    def __init__(self, progress: Progress, running: contextlib.ExitStack) -> None:
        self._progress = progress
        self._running = running
        self._step: Step | None = None

    def begin(self, name: str) -> None:
        self._running.pop_all().close()
        self._step = self._running.enter_context(self._named(name))

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[Step]:
        with self._progress.step(name, log_name="play") as step:
            yield step

    def tell(self, task: str) -> None:
        if self._step:
            self._step.detail = task
