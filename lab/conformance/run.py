"""Run the selected specs against a lab, tell how it goes, and judge the result."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from lab import checks, dns, process
from lab.config import ROOT, Lab
from lab.conformance import events, images, listener, results, selection
from lab.conformance.results import FAILED, PASSED, Spec, Warned
from lab.errors import LabError
from lab.process import StoppedError
from lab.progress import Progress, Step

REPORTS = ROOT / "build" / "conformance"
# The specs wait more than they work; more processes than that fight for two cores.
STREAMS = 4
_TOLD = re.compile(r"^(PASSED|FAILED) (.*)$")


@dataclass
class Outcome:
    """What a run came to."""

    specs: list[Spec] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unstarted: list[Warned] = field(default_factory=list)

    @property
    def failed(self) -> list[Spec]:
        return [spec for spec in self.specs if spec.state == FAILED]

    def problems(self) -> list[str]:
        """What keeps the run from counting as passed, a line each. Pure."""
        lines = [f"{spec.name}: {_reason(spec.message)}" for spec in self.failed]
        lines += [f"{name}: was not run" for name in self.missing]
        lines += [
            f"pod {event.namespace}/{event.pod} did not start: {event.reason}: {event.message[:200]}"
            for event in self.unstarted
        ]
        return lines or ([] if self.specs else ["no spec was run"])

    def raise_if_failed(self) -> None:
        """``LabError`` that names every problem."""
        problems = self.problems()
        if problems:
            shown = "\n".join(f"  {line}" for line in problems[:30])
            raise LabError(
                f"{len(problems)} problems in {len(self.specs)} specs:\n{shown}",
                "The log has what the specs said; one alone: make conformance FOCUS='part of its name'",
                REPORTS / "e2e.log",
            )


def _reason(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # Places in upstream's source are for the log; what went wrong may be on several lines.
    return " ".join(line for line in lines if not re.match(r"^[/\w.-]+\.go:\d+$", line))[:300] or "no reason"


def run(lab: Lab, directory: Path, progress: Progress, *, focus: str = "", streams: int = STREAMS) -> Outcome:
    """Run the specs. ``directory`` is the artifact with e2e.test; ``focus`` narrows the selection further."""
    if len(lab.nodes) < 2:
        raise LabError("some specs want pods on two nodes", "make up NODES=2, or more, with another LAB=name")
    cluster = checks.Cluster(lab)
    with progress.step("specs' images") as step:
        dns.ensure(cluster, step.log)
        images.provide(lab, directory / "agnhost.tar", step.log)
        cluster.run("delete", "namespaces", "--selector=e2e-run", "--wait=true", "--timeout=100s")
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    wanted = select(directory, focus)
    if not wanted:
        raise LabError(f"no spec matches {focus!r}", "Leave FOCUS away to run them all")
    outcome = Outcome()
    with progress.step(f"{len(wanted)} specs, {streams} at a time", log_name="conformance") as step:
        counter = _Counter(progress, step, len(wanted))
        with (
            listener.listening(counter.tell) as url,
            events.kept(cluster, REPORTS),
            (REPORTS / "e2e.log").open("w") as log,
        ):
            command = _command(directory, lab, url, wanted, streams)
            try:
                process.stream(
                    command,
                    lambda line: print(line, file=log),
                    what="e2e.test",
                    env=_environment(cluster, url),
                )
            except StoppedError:
                raise
            except LabError as error:
                log.write(f"{error}\n")
            except BaseException:
                # Nobody will wait for the specs' own cleaning.
                cluster.run("delete", "namespaces", "--selector=e2e-run", "--wait=false", check=False)
                raise
        outcome.specs = results.read(REPORTS)
        ran = {spec.name for spec in outcome.specs}
        outcome.missing = [name for name in wanted if name not in ran]
        warned = results.parse_events((REPORTS / events.EVENTS).read_text())
        deleted = results.parse_deletions((REPORTS / events.PODS).read_text())
        outcome.unstarted = results.start_failures(warned, deleted)
        good = sum(spec.state == PASSED for spec in outcome.specs)
        step.result = f"{good} of {len(wanted)} passed; {REPORTS}"
    return outcome


def select(directory: Path, focus: str) -> list[str]:
    """Names of the specs that will run: asked of e2e.test itself, without running any."""
    dry = REPORTS / "dry-run"
    process.run(
        [
            directory / "e2e.test",
            "--ginkgo.dryRun",
            f"--ginkgo.focus={selection.FOCUS}",
            f"--ginkgo.skip={selection.skip_expression()}",
            "--provider=skeleton",
            f"--report-dir={dry}",
        ],
        what="asking e2e.test for its specs",
        timeout=120,
    )
    names = [spec.name for spec in results.read(dry)]
    shutil.rmtree(dry)
    return [name for name in names if focus.lower() in name.lower()]


def _command(directory: Path, lab: Lab, url: str, wanted: list[str], streams: int) -> list[str | Path]:
    # The names themselves, so that what runs is what was told.
    exactly = "|".join(f"{re.escape(name)}$" for name in wanted)
    return [
        directory / "ginkgo",
        f"-nodes={streams}",
        "-noColor",
        f"-focus={exactly}",
        directory / "e2e.test",
        "--",
        f"--kubeconfig={lab.state / 'kubeconfig'}",
        "--provider=skeleton",
        f"--num-nodes={len(lab.nodes)}",
        f"--report-dir={REPORTS}",
        f"--progress-report-url={url}",
    ]


def _environment(cluster: checks.Cluster, url: str) -> dict[str, str]:
    """The specs call kubectl by its name; http (not https) to where the lab is not goes to our listener."""
    return {
        "PATH": f"{cluster.binary.resolve().parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(REPORTS),
        "HTTP_PROXY": url,
        "NO_PROXY": "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16",
    }


class _Counter:
    """Turns what the processes tell into progress lines."""

    def __init__(self, progress: Progress, step: Step, total: int) -> None:
        self._progress = progress
        self._step = step
        self._total = total
        self._done = 0
        self._began = time.monotonic()

    def tell(self, message: str) -> None:
        match = _TOLD.match(message)
        if match:
            self._done += 1
            seconds = time.monotonic() - self._began
            name = match[2].removeprefix("[sig-network] ")
            self._step.detail = f"{self._done} of {self._total}"
            self._progress.note(
                f"  {self._done:3}/{self._total} {match[1].lower():6} {seconds:5.0f} s  {name}"
            )
