"""From objects of the API to the datapath's tables of services: takes changes, has the registry work out what
they mean, and writes the difference.

One thread does all of it. What arrives while it works is taken together next, so that a burst costs little
more than a change. Nothing is written before services and endpoints are known completely: until then, what an
earlier agent left keeps serving."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from podwire.agent.service_flows import Stale, stale_flows
from podwire.agent.service_maps import Failure, Outcome, ServiceMaps
from podwire.bpf import BpfError
from podwire.datapath import DatapathError
from podwire.kube.reflector import Change
from podwire.service.changes import Changes
from podwire.service.model import HealthCheck, HostPort, Name, NodeContext, Problem, Service, Slice
from podwire.service.registry import Limits, Registry

log = logging.getLogger(__name__)

BATCH = 500
"""Services worked out at a time: so long nobody else can look at the registry."""
RETRY = 5.0
"""Seconds until everything is compared again after a failure, then twice as many each time it fails again."""
COMPARE = 600.0
"""Seconds between two looks at the tables without one."""
NOT_PROGRAMMED = "NotProgrammed"

Job = Callable[[Registry], None]


class Hooks(NamedTuple):
    """Who is told what, in the controller's thread."""

    stale_flows: Callable[[Stale], None]
    """Flows of UDP that must start anew."""
    health_checks: Callable[[dict[int, HealthCheck]], None]
    """Every health-check node port that should be open."""
    problems: Callable[[Sequence[Problem]], None]
    """Problems that are new."""


@dataclass(slots=True)
class Counts:
    """What the controller did so far."""

    changes: int = 0
    """Times the tables were written."""
    entries_written: int = 0
    entries_removed: int = 0
    comparisons: int = 0
    last_change_seconds: float = 0.0
    """How long the last one took, from taking the objects to the tables being written."""
    first_sync_seconds: float | None = None
    """From the start of the agent's part to everything being in force."""


@dataclass(slots=True)
class _Known:
    """What has been delivered completely."""

    services: bool = False
    slices: bool = False


@dataclass(slots=True)
class _State:
    """What the thread keeps between two rounds."""

    known: _Known = field(default_factory=_Known)
    synced: bool = False
    compare_at: float = 0.0
    must_compare: bool = True
    """Something went wrong, or the tables are others: a look is not enough."""
    retry: float = RETRY
    """Seconds to the next comparison if something fails again."""
    failures: tuple[Failure, ...] = ()
    trouble: str = ""
    """Why the tables cannot be reached at all."""


class ServiceController:
    """All services of the cluster, in force on this node. Methods may be called from any thread."""

    def __init__(self, maps: ServiceMaps, context: NodeContext, limits: Limits, hooks: Hooks) -> None:
        """Looks at what an earlier agent left. Raises DatapathError or BpfError."""
        inherited = maps.inherited()
        self.counts = Counts()
        self.guard = threading.RLock()
        """Held while the registry is read or changed."""
        self.registry = Registry(
            context, limits, first_list=inherited.first_list, known_services=inherited.known_services
        )
        self._maps = maps
        self._hooks = hooks
        self._context = context
        self._inbox: deque[Job] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._state = _State()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="services", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the round it is at. What is in the kernel stays."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    # -- input -------------------------------------------------------------------------------------

    def take_services(self, changes: Sequence[Change[Service]], complete: bool) -> None:
        def job(registry: Registry) -> None:
            for key, service in changes:
                if service is None:
                    registry.delete_service(_name(key))
                else:
                    registry.set_service(service)
            self._state.known.services |= complete

        self._put(job)

    def take_slices(self, changes: Sequence[Change[Slice]], complete: bool) -> None:
        def job(registry: Registry) -> None:
            for key, item in changes:
                if item is None:
                    registry.delete_slice(_name(key))
                else:
                    registry.set_slice(item)
            self._state.known.slices |= complete

        self._put(job)

    def set_host_ports(self, pod: Name, ports: Iterable[HostPort], created: str = "") -> None:
        """Say which host ports a pod of this node has; none removes them. ``created`` is its age, as the API
        writes it."""
        wanted = tuple(ports)
        self._put(lambda registry: registry.set_host_ports(pod, wanted, created))

    def set_context(self, context: NodeContext) -> None:
        """Take new facts about the nodes; the same ones again cost nothing."""
        if context == self._context:
            return
        self._context = context
        self._put(lambda registry: registry.set_context(context))

    def compare_soon(self) -> None:
        """Compare everything: the tables may be others than before."""

        def job(_registry: Registry) -> None:
            self._state.compare_at, self._state.must_compare = 0.0, True

        self._put(job)

    def _put(self, job: Job) -> None:
        with self._wake:
            self._inbox.append(job)
            self._wake.notify()

    # -- questions ---------------------------------------------------------------------------------

    @property
    def synced(self) -> bool:
        """Is everything that was known at the start in force?"""
        return self._state.synced

    def problems(self) -> list[Problem]:
        """What is wrong with objects, and what could not be put in force."""
        with self.guard:
            return [*self.registry.problems(), *self._failure_problems()]

    def trouble(self) -> str:
        """Why the tables cannot be written at all; empty when they can."""
        return self._state.trouble

    def _failure_problems(self) -> Iterable[Problem]:
        for failure in self._state.failures:
            try:
                owner, _ = self.registry.service_of(failure.service)
            except KeyError:
                continue  # gone meanwhile
            yield Problem(*owner.name, NOT_PROGRAMMED, failure.reason, owner.kind)

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._inbox or self._stopping, self._pause())
                if self._stopping:
                    return
                jobs = list(self._inbox)
                self._inbox.clear()
            try:
                self._round(jobs)
                self._state.trouble = ""
            except (BpfError, DatapathError) as error:
                if self._state.trouble != str(error):
                    log.error("services cannot be written: %s", error)
                self._state.trouble = str(error)
                self._compare_after_failure()
            except Exception as error:
                log.exception("services")
                self._state.trouble = f"{type(error).__name__}: {error}"
                self._compare_after_failure()

    def _pause(self) -> float | None:
        """Seconds to wait for news at most."""
        if not self._ready():
            return None
        return max(0.0, self._state.compare_at - time.monotonic())

    def _compare_after_failure(self) -> None:
        """A comparison of ten thousand services takes seconds: what keeps failing is tried less and less."""
        self._state.compare_at, self._state.must_compare = time.monotonic() + self._state.retry, True
        self._state.retry = min(2 * self._state.retry, COMPARE)

    def _ready(self) -> bool:
        return self._state.known.services and self._state.known.slices

    def _round(self, jobs: Sequence[Job]) -> None:
        started = time.monotonic()
        with self.guard:
            for job in jobs:
                try:
                    job(self.registry)
                except Exception:  # the others must not get lost for it
                    log.exception("taking changes of services")
        if not self._ready():
            return
        if self._state.synced and (started < self._state.compare_at or self._fine()):
            self._follow(started)
        else:
            self._compare()

    def _fine(self) -> bool:
        """A look from time to time, which changes should not have to wait for long: does all seem well?"""
        if self._state.must_compare:
            return False
        if self.registry.pending:
            return True  # they go first; the look follows at once
        fine = self._maps.looks_intact(self.registry)
        if fine:
            self._state.compare_at = time.monotonic() + COMPARE
        return fine

    def _follow(self, started: float) -> None:
        """Write what the last changes touch."""
        for changes in self._worked_out():
            if not changes:
                continue
            outcome = self._maps.apply(changes)
            self.counts.changes += 1
            self.counts.last_change_seconds = time.monotonic() - started
            if outcome.failures or self._state.failures:  # or there may be room now for what failed before
                self._state.retry = RETRY
                self._compare_after_failure()
            # New failures are added to the known ones: only a comparison finds out that one is over.
            self._done(outcome, changes, (*self._state.failures, *outcome.failures))

    def _worked_out(self) -> Iterator[Changes]:
        """What the services that were touched come to, some at a time."""
        while self.registry.pending:
            with self.guard:
                changes = self.registry.flush(BATCH)
            yield changes

    def _compare(self) -> None:
        """Make everything equal, whatever is there."""
        everything = Changes()
        for changes in self._worked_out():
            everything.problems.update(changes.problems)
            everything.released_udp |= changes.released_udp
        # Nobody but this thread changes the registry: it can be read without keeping others waiting.
        outcome = self._maps.reconcile(self.registry)
        now = time.monotonic()
        self.counts.comparisons += 1
        everything.released_udp |= outcome.released_udp
        with self.guard:
            everything.health_checks = dict(self.registry.health_checks())
        if not self._state.synced:
            self.counts.first_sync_seconds = now - self._started
            log.info(
                "services are in force after %.2f s: %d frontends",
                self.counts.first_sync_seconds,
                len(self.registry.frontends()),
            )
        elif outcome.written or outcome.removed:
            log.warning(
                "tables of services put right: %d entries written, %d removed",
                outcome.written,
                outcome.removed,
            )
        self._state.synced = True
        if outcome.failures:
            self._compare_after_failure()
        else:
            self._state.compare_at, self._state.retry = now + COMPARE, RETRY
            self._state.must_compare = False
        self._done(outcome, everything, tuple(outcome.failures))

    def _done(self, outcome: Outcome, changes: Changes, failures: tuple[Failure, ...]) -> None:
        """Tell the others."""
        self.counts.entries_written += outcome.written
        self.counts.entries_removed += outcome.removed
        before, self._state.failures = self._state.failures, tuple(dict.fromkeys(failures))
        stale = stale_flows(changes.released_udp, changes.frontends)
        if stale:
            self._hooks.stale_flows(stale)
        if changes.health_checks or changes.removed_health_checks:
            with self.guard:
                self._hooks.health_checks(dict(self.registry.health_checks()))
        problems = [problem for group in changes.problems.values() for problem in group]
        if set(self._state.failures) - set(before):
            with self.guard:
                problems += self._failure_problems()
        if problems:
            self._hooks.problems(problems)


def _name(key: str) -> Name:
    namespace, _, name = key.partition("/")
    return Name(namespace, name)
