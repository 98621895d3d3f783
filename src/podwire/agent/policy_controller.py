"""From policies of the API to policy maps in the kernel: takes changes, has the engine work out what they
mean for each endpoint of this node, and puts that in force.

One thread does all of it; what arrives while it works is taken together next. Nothing is written before all
policies and everything they are worked out from are known completely: until then, what an earlier agent left
stays in force, and an endpoint that is new is closed.

A change is atomic for each endpoint: its new map is complete under a number of its own before the endpoint
gets the number, and the old one is freed a while after nobody has it any more. Endpoints whose policies come
to the same share a map.

Prefixes that rules name for the first time take two steps, because an address changes its identity by that:
first the policies in force so far learn of the new identities (an identity is allowed wherever the wider one
was), then the addresses get them together with the new policies. Identities that no rule names any more
linger, so that nothing in flight refers to a number with another meaning."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import NamedTuple, Protocol

from podwire.agent.identity_view import LocalEndpoint, World
from podwire.agent.model import PolicyAssignment
from podwire.agent.policy_install import NEVER, Installed
from podwire.agent.policy_maps import PolicyMaps
from podwire.agent.policy_store import PLURALS, Known, PolicyStore, Taken
from podwire.agent.policy_tables import CLOSED, OPEN, is_open
from podwire.bpf import BpfError
from podwire.datapath import DatapathError
from podwire.kube.reflector import Change
from podwire.policy.model import Compiled, Policy
from podwire.policy.world import ServiceView

log = logging.getLogger(__name__)

RETRY = 2.0
"""Seconds until a failed write is tried again, then twice as many each time, up to LONGEST_RETRY."""
LONGEST_RETRY = 60.0
LINGER = 30.0
"""Seconds that the identity of a prefix outlives the last rule that names it."""
ABSENT = 30.0
"""Seconds that a kind must be missing in the API before policies of an earlier agent are given up for it: an
API server that starts does not know of its custom resources at first."""
PATIENCE = 5.0
"""Seconds that policies which name services for the first time wait until these are known."""

Numbered = Mapping[IPv4Network, int]
"""CIDR identities by prefix."""


class Engine(Protocol):
    """Works out policies; remembers what it can."""

    def set_policies(self, policies: Mapping[str, Policy]) -> None:
        """Take all policies in force, by key."""
        ...

    def set_world(self, world: World, cidrs: Numbered) -> None: ...
    def set_services(self, services: Sequence[ServiceView]) -> None: ...
    def names_services(self) -> bool:
        """Does any policy that ``prefixes`` was asked about name services?"""
        ...

    def compile(self, endpoints: Mapping[str, LocalEndpoint]) -> dict[str, Compiled]:
        """The policies of endpoints, by their keys."""
        ...

    def prefixes(self, policies: Mapping[str, Policy]) -> set[IPv4Network]:
        """Prefixes that need identities of their own for these policies."""
        ...


class EndpointProblem(NamedTuple):
    """Why an endpoint is closed although its policy says otherwise."""

    namespace: str
    pod: str
    message: str


class Report(NamedTuple):
    """What this node enforces, for the others."""

    observed: dict[str, str]
    """By the name of a kind's resource: the resource version up to which its policies are in force."""
    revision: int
    problems: tuple[str, ...]


class Hooks(NamedTuple):
    """What others do for the controller, and who is told what; called in the controller's thread."""

    number_cidrs: Callable[[Collection[IPv4Network]], Numbered]
    """Give prefixes identities without anybody using them yet."""
    set_cidrs: Callable[[Collection[IPv4Network]], object]
    """Have addresses of exactly these prefixes known by their identities, with the next ``apply``."""
    want_services: Callable[[], bool]
    """Policies name services: are these known completely? Else ``take_services`` will tell."""
    apply: Callable[[], None]
    """Write what ``assignment`` answers into the kernel: first identities of addresses, then the numbers of
    endpoints, then the slots of those. Raises DatapathError, BpfError or OSError when it could not."""
    report: Callable[[Report], None]
    judged: Callable[[Mapping[str, Known]], None]
    """Objects that were read, by key: their status may have to say something else now."""
    problems: Callable[[Sequence[EndpointProblem]], None]
    """Endpoints that are closed by a problem since this round."""
    remember: Callable[[list[Mapping[str, object]]], None]
    """Objects to give to the next agent as ``last_valid``."""


class Assigned(NamedTuple):
    """What holds for an endpoint."""

    identity: int
    number: int
    compiled: Compiled
    revision: int
    """Of the policies that this is the result of."""
    problem: str = ""
    """Why it is closed instead."""


@dataclass(slots=True)
class Counts:
    """What the controller did so far."""

    rounds: int = 0
    applied: int = 0
    """Times that endpoints got other numbers."""
    last_change_seconds: float = 0.0
    """How long the last change took, from taking it to it being in force."""
    first_sync_seconds: float | None = None


@dataclass(slots=True)
class _State:
    """What the thread keeps between two rounds."""

    known: set[str] = field(default_factory=set)
    """Kinds that were delivered completely."""
    absent: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Kinds that the API does not serve: since when, and what it says."""
    synced: bool = False
    dirty: bool = True
    """Something may come to something else now."""
    unapplied: bool = True
    """The kernel may have other numbers and identities than it should."""
    look: bool = False
    retry: float = RETRY
    retry_at: float = NEVER
    patience: float = 0.0
    """Until when services are waited for; 0: nobody asked for them yet."""
    linger: dict[IPv4Network, float] = field(default_factory=dict)
    """Prefixes that no rule names any more, and until when they keep their identities."""
    versions: dict[str, str] = field(default_factory=dict)
    """By kind: delivered up to there."""
    unversioned: set[str] = field(default_factory=set)
    """Kinds of which something was delivered since their last version."""
    observed: dict[str, str] = field(default_factory=dict)
    remember: bool = False
    """Earlier versions of objects may be others than those remembered."""
    news: bool = False
    """The next report is worth publishing."""
    trouble: str = ""


class PolicyController:
    """The policies of the cluster, in force on this node. Methods may be called from any thread."""

    def __init__(
        self,
        maps: PolicyMaps,
        engine: Engine,
        world: Callable[[], World],
        hooks: Hooks,
        *,
        audit: bool = False,
        last_valid: Iterable[Taken] = (),
    ) -> None:
        """Looks at what an earlier agent left. ``world``: what is known of identities now. Raises
        DatapathError or BpfError."""
        self.installed = Installed(maps)
        self.counts = Counts()
        self.guard = threading.RLock()
        """Held while the store is read or changed."""
        self.store = PolicyStore(last_valid)
        self._engine = engine
        self._world = world
        self._hooks = hooks
        self._audit = audit
        self._assigned: dict[str, Assigned] = {}
        self._in_force: dict[str, tuple[int, int]] = {}
        """Identity and number of each endpoint, as they were last written."""
        self._cidrs: Numbered = {}
        self._shown: frozenset[IPv4Network] = frozenset()
        """Prefixes that addresses are known by."""
        self._services: tuple[ServiceView, ...] = ()
        self._revision = 1
        self._touched: dict[str, Known] = {}
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._state = _State()
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="policies", daemon=True)

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

    def take_policies(self, kind: str, changes: Sequence[Change[Taken]], complete: bool) -> None:
        def job() -> None:
            for name, taken in changes:
                self._take(f"{kind}/{name}", taken)
            state = self._state
            if changes or kind not in state.known:
                state.unversioned.add(kind)
            if complete:
                state.absent.pop(kind, None)
                state.dirty |= kind not in state.known
                state.known.add(kind)

        self._put(job)

    def take_version(self, kind: str, version: str) -> None:
        """Everything up to this version was delivered. It is published if anything came with it: not every
        bookmark is worth a write."""

        def job() -> None:
            state = self._state
            state.versions[kind] = version
            if kind in state.unversioned:
                state.unversioned.discard(kind)
                state.news = True

        self._put(job)

    def take_absence(self, kind: str, reason: str) -> None:
        def job() -> None:
            since, _ = self._state.absent.get(kind, (time.monotonic(), ""))
            self._state.absent[kind] = (since, reason)
            self._state.news = True

        self._put(job)

    def take_world(self) -> None:
        """The world is another one, or an endpoint is."""

        def job() -> None:
            self._state.dirty = True

        self._put(job)

    def take_services(self, services: Sequence[ServiceView]) -> None:
        """Every service of the cluster, as far as policies are concerned."""

        def job() -> None:
            self._services = tuple(services)
            self._state.dirty = True

        self._put(job)

    def look_soon(self) -> None:
        """Compare the kernel's maps with what they should be."""

        def job() -> None:
            self._state.look = True

        self._put(job)

    def _put(self, job: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(job)
            self._wake.notify()

    # -- questions ---------------------------------------------------------------------------------

    def assignment(self, key: str, identity: int) -> PolicyAssignment | None:
        """The policy map of an endpoint as one of ``identity``; None while it is not known. Never blocks."""
        found = self._assigned.get(key)
        if found is None or found.identity != identity:
            return None
        return PolicyAssignment(found.number, self._audit and found.number != OPEN)

    def assigned(self, key: str) -> Assigned | None:
        return self._assigned.get(key)

    @property
    def revision(self) -> int:
        """Counts policies that were taken in or deleted, from 1."""
        return self._revision

    @property
    def synced(self) -> bool:
        """Is everything that was known at the start in force?"""
        return self._state.synced

    @property
    def cidrs(self) -> Numbered:
        """Identities of the prefixes that rules name."""
        return self._cidrs

    @property
    def services(self) -> tuple[ServiceView, ...]:
        """Services that rules may name; none while no rule does."""
        return self._services

    @property
    def observed(self) -> dict[str, str]:
        return {PLURALS[kind]: version for kind, version in self._state.observed.items()}

    def trouble(self) -> str:
        """Why policies cannot be put in force at all; empty when they can."""
        return self._state.trouble

    def problems(self) -> list[str]:
        """What is not as the policies say, as sentences."""
        found = [f"policies cannot be put in force: {self._state.trouble}"] if self._state.trouble else []
        found += [reason for _, reason in self._state.absent.values()]
        world = self._world()
        for key, assigned in self._assigned.items():
            endpoint = world.local.get(key)
            if assigned.problem and endpoint is not None:
                found.append(f"{_name(endpoint)} is closed: {assigned.problem}")
        with self.guard:
            found += [_sentence(known) for known in self.store if known.policy.errors]
        return found

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
            except (BpfError, DatapathError, OSError) as error:
                if self._state.trouble != str(error):
                    log.error("policies cannot be put in force: %s", error)
                self._failed(str(error))
            except Exception as error:
                log.exception("policies")
                self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, reason: str) -> None:
        state = self._state
        if state.trouble != reason:
            state.trouble = reason
            self._publish()
        state.dirty = True
        self._retry_later()

    def _retry_later(self) -> None:
        state = self._state
        state.retry_at = time.monotonic() + state.retry
        state.retry = min(2 * state.retry, LONGEST_RETRY)

    def _pause(self) -> float | None:
        """Seconds to wait for news at most."""
        state = self._state
        due = [state.retry_at]
        if not state.trouble:  # else nothing but another attempt helps
            due += [*state.linger.values(), self.installed.due() if state.synced else NEVER]
        if not state.synced:
            due += [since + ABSENT for since, _ in state.absent.values()]
        first = min(due)
        return None if first == NEVER else max(0.0, first - time.monotonic())

    def _round(self, jobs: Sequence[Callable[[], None]]) -> None:
        started, state = time.monotonic(), self._state
        self.counts.rounds += 1
        with self.guard:
            for job in jobs:
                try:
                    job()
                except Exception:  # the others must not get lost for it
                    log.exception("taking changes of policies")
            judged, self._touched = self._touched, {}
            remember, state.remember = state.remember, False
        if judged:
            self._hooks.judged(judged)
        if remember:
            self._hooks.remember(list(self.store.last_valid()))
        if not self._ready(started):
            if state.news:
                state.news = False
                self._publish()
            return
        due = started >= state.retry_at
        if due:
            state.retry_at = NEVER
        if state.look:
            state.look = False
            state.dirty |= self.installed.look()
        if state.dirty or due:
            versions = dict(state.versions)
            if self._follow():
                state.dirty = False
                self._settled(started, versions)
        else:
            state.observed = dict(state.versions)
        if state.news:
            state.news = False
            self._publish()
        self.installed.tidy()
        self._forget()

    def _ready(self, now: float) -> bool:
        state = self._state
        if state.synced:
            return True
        patience = ABSENT if self.installed.inherited else 0.0
        for kind in PLURALS.keys() - state.known:
            since, _ = state.absent.get(kind, (now, ""))
            if kind not in state.absent or now < since + patience:
                return False
        return self._world().complete

    def _take(self, key: str, taken: Taken | None) -> None:
        """Note an object as it is now; None: it is gone."""
        self._state.remember = True
        if taken is None:
            changed = self.store.delete(key)
        else:
            changed = self.store.set(key, taken)
            known = self.store.get(key)
            if known is not None:
                self._touched[key] = known
        if changed:
            self._revision += 1
            self._state.dirty = True

    # -- working it out ----------------------------------------------------------------------------

    def _follow(self) -> bool:
        """Put in force what is known now. False: policies name services that are still to be learned."""
        with self.guard:
            policies = self.store.rules_source()
        world = self._world()
        self._engine.set_services(self._services)
        wanted = self._engine.prefixes(policies)
        if self._engine.names_services() and not self._hooks.want_services() and self._patient():
            return False
        prefixes = wanted | self._cidrs.keys()
        if not prefixes <= self._shown:
            numbered = dict(self._hooks.number_cidrs(prefixes))
            if self._state.synced:
                self._engine.set_world(world, numbered)
                self._install(world, transition=True)
            self._cidrs = numbered
        self._show(prefixes)
        self._engine.set_policies(policies)
        self._engine.set_world(world, self._cidrs)
        self._install(world)
        until = time.monotonic() + LINGER
        gone = self._cidrs.keys() - wanted
        self._state.linger = {prefix: self._state.linger.get(prefix, until) for prefix in gone}
        return True

    def _show(self, prefixes: Collection[IPv4Network]) -> None:
        """Have addresses of exactly these prefixes known by their identities, with the next write."""
        if self._shown != prefixes or not self._state.synced:
            self._hooks.set_cidrs(prefixes)
            self._shown = frozenset(prefixes)
            self._state.unapplied = True

    def _patient(self) -> bool:
        """Shall services be waited for? Not for ever: they allow the less, the fewer of them are known."""
        state, now = self._state, time.monotonic()
        state.patience = state.patience or now + PATIENCE
        state.retry_at = state.patience if now < state.patience else NEVER
        return now < state.patience

    def _install(self, world: World, *, transition: bool = False) -> None:
        """Give every endpoint the map that its policy comes to. ``transition``: in between, so that one that
        cannot be made is no reason to close anybody."""
        state = self._state
        known = {key: endpoint for key, endpoint in world.local.items() if endpoint.identity}
        compiled = self._engine.compile(known)
        wanted = {value.digest: value for value in compiled.values() if not is_open(value)}
        failures, again = self.installed.make(wanted)
        if again:
            self._retry_later()
        before = self._assigned
        assigned = {
            key: self._assign(known[key].identity, value, failures) for key, value in compiled.items()
        }
        if transition:
            kept = (key for key, value in assigned.items() if value.problem and key in before)
            assigned.update({key: before[key] for key in kept})
        self._assigned = assigned
        in_force = {key: (value.identity, value.number) for key, value in assigned.items()}
        if state.unapplied or in_force != self._in_force:
            state.unapplied = True
            self._hooks.apply()
            state.unapplied, self._in_force = False, in_force
            self.counts.applied += 1
        self.installed.retire({number for _, number in in_force.values()})
        self._tell(world, before)

    def _assign(self, identity: int, value: Compiled, failures: Mapping[str, str]) -> Assigned:
        if is_open(value):
            return Assigned(identity, OPEN, value, self._revision)
        problem = failures.get(value.digest, "")
        number = CLOSED if problem else self.installed.number(value.digest)
        return Assigned(identity, number, value, self._revision, problem)

    def _tell(self, world: World, before: Mapping[str, Assigned]) -> None:
        """Tell of endpoints that are closed by a problem, once."""
        news = []
        for key, assigned in self._assigned.items():
            old = before.get(key)
            if assigned.problem and (old is None or old.problem != assigned.problem):
                endpoint = world.local[key]
                log.error("%s is closed: %s", _name(endpoint), assigned.problem)
                news.append(EndpointProblem(endpoint.namespace, endpoint.pod, assigned.problem))
            if assigned.problem != (old.problem if old else ""):
                self._state.news = True
        if news:
            self._hooks.problems(news)

    def _settled(self, started: float, versions: Mapping[str, str]) -> None:
        """Everything is in force up to ``versions``."""
        state, now = self._state, time.monotonic()
        state.observed = dict(versions)
        self.counts.last_change_seconds = now - started
        if state.retry_at == NEVER:
            state.retry = RETRY
        if not state.synced:
            state.synced = state.news = True
            self.installed.release()
            self.counts.first_sync_seconds = now - self._started
            log.info(
                "policies are in force after %.2f s: %d policies, %d maps",
                self.counts.first_sync_seconds,
                len(self.store),
                len(self.installed),
            )

    def _publish(self) -> None:
        self._hooks.report(Report(self.observed, self._revision, tuple(self.problems())))

    def _forget(self) -> None:
        """Let addresses of prefixes that no rule has named for a while be known by the next wider one again,
        and only then let policies forget their identities."""
        now = time.monotonic()
        ended = {prefix for prefix, until in self._state.linger.items() if now >= until}
        if not ended:
            return
        left = {prefix: number for prefix, number in self._cidrs.items() if prefix not in ended}
        self._show(left.keys())
        world = self._world()
        self._install(world)
        self._cidrs = left
        self._engine.set_world(world, left)
        self._install(world)
        for prefix in ended:
            del self._state.linger[prefix]


def _name(endpoint: LocalEndpoint) -> str:
    return f"{endpoint.namespace}/{endpoint.pod}" if endpoint.pod else "the health endpoint"


def _sentence(known: Known) -> str:
    policy = known.policy
    kept = "; an earlier version stays in force" if known.stale else ""
    return f"{policy.origin.key} is invalid: {'; '.join(policy.errors)}{kept}"
