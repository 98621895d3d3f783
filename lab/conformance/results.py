"""What came of a run: read from the JUnit files that the specs' processes left. Pure but for reading them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from xml.etree import ElementTree

from lab.conformance.events import FIELD, RECORD

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_SUITE = re.compile(
    r"^\[sig-network\] (Services|Networking Granular Checks: \w+|NetworkPolicy API|NetworkPolicy)"
)
_TAGS = re.compile(r"\s*\[[^\]]*\]")
# Reasons of warnings about a pod that say: it does not start.
START_PROBLEMS = frozenset(
    {
        "ErrImageNeverPull",
        "Failed",
        "FailedCreatePodContainer",
        "FailedCreatePodSandBox",
        "InspectFailed",
    }
)


@dataclass(frozen=True)
class Spec:
    """One spec: its full name, what came of it, how long it took in seconds, why it failed."""

    name: str
    state: str
    seconds: float = 0.0
    message: str = ""

    @property
    def suite(self) -> str:
        match = _SUITE.match(self.name)
        return match[1] if match else "others"

    @property
    def title(self) -> str:
        """The name without suite and tags."""
        return _TAGS.sub("", _SUITE.sub("", self.name)).strip()


def read(directory: Path) -> list[Spec]:
    """Every spec of the JUnit files in a directory that was run, or failed to be."""
    found: dict[str, Spec] = {}
    for path in sorted(directory.glob("junit_*.xml")):
        root = ElementTree.parse(path).getroot()  # noqa: S314 - our own process wrote it
        for case in root.iter("testcase"):
            spec = _spec(case)
            # Each process lists all specs, and those as skipped that another one ran.
            if spec.state != SKIPPED:
                found[spec.name] = spec
    return sorted(found.values(), key=lambda spec: spec.name)


def _spec(case: ElementTree.Element) -> Spec:
    name, seconds = case.get("name", ""), float(case.get("time") or 0)
    failure = next((child for child in case if child.tag in ("failure", "error")), None)
    if failure is not None:
        return Spec(name, FAILED, seconds, (failure.text or failure.get("message") or "").strip())
    return Spec(name, SKIPPED if case.find("skipped") is not None else PASSED, seconds)


@dataclass(frozen=True)
class Warned:
    """A warning event about a pod, with its time in seconds since the epoch (0 when it has none)."""

    namespace: str
    pod: str
    reason: str
    message: str
    when: float = 0.0


def parse_events(text: str) -> list[Warned]:
    """Warnings about pods, as the watch wrote them: namespace, kind, name, time, reason, message."""
    found = [
        Warned(namespace, name, reason, message.strip(), parse_time(when))
        for namespace, kind, name, when, reason, message in _records(text, 6)
        if kind == "Pod"
    ]
    return list(dict.fromkeys(found))


def parse_deletions(text: str) -> dict[tuple[str, str], float]:
    """When somebody wanted each of the pods gone: namespace, name, time of its end, seconds until then."""
    found: dict[tuple[str, str], float] = {}
    for namespace, name, end, grace in _records(text, 4):
        if end:
            found.setdefault((namespace, name), parse_time(end) - float(grace or 0))
    return found


def _records(text: str, fields: int) -> Iterable[list[str]]:
    """Whole records; the last one may be half written."""
    records = (record.split(FIELD) for record in text.split(RECORD)[:-1])
    return (record for record in records if len(record) == fields)


def parse_time(text: str) -> float:
    """A time of the API as seconds since the epoch; 0 for none."""
    if not text:
        return 0.0
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def start_failures(events: Iterable[Warned], deletions: Mapping[tuple[str, str], float]) -> list[Warned]:
    """Those events that tell of a pod that failed to start although somebody wanted it."""
    return [
        event
        for event in events
        # Times are whole seconds.
        if event.reason in START_PROBLEMS
        and event.when < deletions.get((event.namespace, event.pod), float("inf"))
    ]


def by_suite(specs: Iterable[Spec]) -> dict[str, tuple[int, int, float]]:
    """Passed, failed and seconds of each suite."""
    sums: dict[str, tuple[int, int, float]] = {}
    for spec in specs:
        good, bad, seconds = sums.get(spec.suite, (0, 0, 0.0))
        passed = spec.state == PASSED
        sums[spec.suite] = (good + passed, bad + (not passed), seconds + spec.seconds)
    return sums
