"""The thread that keeps identities: takes what sources deliver, decides who is who, and tells everybody.

What arrives while it works is taken together next. Nothing here waits for the API: numbers are asked for
and endpoints published by threads of their own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Network
from typing import NamedTuple, Protocol

from podwire.agent.cni import CniError
from podwire.agent.identity_allocator import Wanted
from podwire.agent.identity_census import Census, Delivered, Hosts
from podwire.agent.identity_choice import Garbage
from podwire.agent.identity_cidr import EVERYWHERE, CidrNumbers
from podwire.agent.identity_objects import IdentityObject, NodeEndpointsObject, PodObject
from podwire.agent.identity_view import IdentityView, RemoteEndpoint
from podwire.agent.model import Endpoint, NodeInfo
from podwire.agent.state import StateError
from podwire.bpf import BpfError
from podwire.datapath import DatapathError
from podwire.kube.reflector import Change
from podwire.net.netlink import NetlinkError
from podwire.policy.identity import WORLD
from podwire.policy.model import Labels

log = logging.getLogger(__name__)

GARBAGE_INTERVAL = 60.0
"""Seconds between two looks for identities that nobody uses."""
SETTLE = 0.2
"""Seconds that a pod of another node stays who it was when its labels change: by then the policies here know
of its new identity, and no packet is refused that both identities may send."""
RETRY = 2.0
"""Seconds until a write of the kernel's tables that failed is tried again."""
FAILURES = (BpfError, CniError, DatapathError, NetlinkError, OSError, StateError)

Job = Callable[[Census], None]


class LocalEndpoints(Protocol):
    """What the controller does to this node's endpoints; see ``podwire.agent.endpoints``."""

    def set_identities(self, identities: Mapping[str, tuple[int, Labels]]) -> None: ...
    def sync(self) -> object: ...


class Hooks(NamedTuple):
    """Who is told what, in the controller's thread. None of them blocks."""

    want: Callable[[Mapping[str, Wanted]], None]
    """Labels that need numbers, by canonical text: these and no others."""
    collect: Callable[[Sequence[IdentityObject]], None]
    """Identities to delete."""
    publish: Callable[[str, Sequence[RemoteEndpoint]], None]
    """This node's uid and endpoints."""
    seen: Callable[[NodeEndpointsObject | None], None]
    """What the API has of this node."""
    remember: Callable[[Mapping[IPv4Network, int], frozenset[str]], None]
    """Numbers of prefixes and addresses of API servers, for the next agent."""
    current: Callable[[], bool]
    """Is what is known of the cluster up to date?"""
    judging: Callable[[], bool]
    """Does a keeper of policies write the tables when it has seen an endpoint's new identity?"""


class Known(NamedTuple):
    """What the state of the cluster is completed with; replaced as a whole. None: not known yet."""

    remote: Mapping[str, int] | None = None
    cidrs: Mapping[IPv4Network, int] | None = None
    api_servers: frozenset[str] = frozenset()


class IdentityController:
    """Methods may be called from any thread and do not block."""

    def __init__(
        self,
        node: str,
        view: IdentityView,
        hooks: Hooks,
        known: tuple[Mapping[IPv4Network, int], frozenset[str]] = ({}, frozenset()),
    ) -> None:
        """``known``: numbers of prefixes and addresses of API servers as an earlier agent knew them."""
        self.rounds = 0
        self.trouble = ""
        """Why the kernel's tables could not be written."""
        self._view = view
        self._hooks = hooks
        self._census = Census(node)
        self._census.api_servers = known[1]
        self._node = node
        self._numbers = CidrNumbers(known[0])
        self._numbers_guard = threading.Lock()
        self._asked: frozenset[IPv4Network] = frozenset(known[0])
        self._active: frozenset[IPv4Network] | None = None
        self._remembered = known
        self._published = Known(api_servers=known[1])
        self._garbage = Garbage()
        self._endpoints: LocalEndpoints | None = None
        self._local: Sequence[Endpoint] = ()
        self._slices: dict[str, frozenset[str]] = {}
        self._inbox: deque[Job] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._must_sync = False
        self._settling: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="identities", daemon=True)

    def start(self, endpoints: LocalEndpoints) -> None:
        self._endpoints = endpoints
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the round it is at."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    # -- input -------------------------------------------------------------------------------------

    def take_namespaces(self, changes: Sequence[Change[Labels]], complete: bool) -> None:
        self._put(lambda census: census.take_namespaces(changes, complete))

    def take_pods(self, changes: Sequence[Change[PodObject]], complete: bool) -> None:
        self._put(lambda census: census.take_pods(changes, complete))

    def take_identities(self, changes: Sequence[Change[IdentityObject]], complete: bool) -> None:
        self._put(lambda census: census.take_identities(changes, complete))

    def take_node_endpoints(self, changes: Sequence[Change[NodeEndpointsObject]], complete: bool) -> None:
        def job(census: Census) -> None:
            census.take_node_endpoints(changes, complete)
            if census.delivered.nodes:
                self._hooks.seen(census.own())

        self._put(job)

    def take_api_servers(self, changes: Sequence[Change[frozenset[str]]], complete: bool) -> None:
        def job(census: Census) -> None:
            for key, addresses in changes:
                self._slices[key] = addresses or frozenset()
            if complete:
                census.api_servers = frozenset().union(*self._slices.values())

        self._put(job)

    def take_identity(self, item: IdentityObject) -> None:
        """Take what the allocator got."""
        self._put(lambda census: census.claim(item, time.monotonic()))

    def take_local(self, endpoints: Sequence[Endpoint]) -> None:
        """Take the endpoints that are here now; the same ones again cost little."""
        if endpoints != self._local:
            self._local = endpoints
            self._put(lambda census: census.take_local(endpoints))

    def take_nodes(self, nodes: tuple[NodeInfo, ...], own_addresses: Collection[str]) -> None:
        """Take the cluster's nodes and this one's addresses; the same ones again cost nothing."""
        hosts = Hosts(nodes, frozenset(own_addresses))

        def job(census: Census) -> None:
            census.hosts = hosts

        if hosts != self._census.hosts:
            self._put(job)

    def _put(self, job: Job) -> None:
        with self._wake:
            self._inbox.append(job)
            self._wake.notify()

    # -- prefixes ----------------------------------------------------------------------------------

    def number_cidrs(self, prefixes: Collection[IPv4Network]) -> dict[IPv4Network, int]:
        """Give prefixes identities; addresses are not known by them yet. 0.0.0.0/0 is the world."""
        with self._numbers_guard:
            self._asked = frozenset(prefixes)
            self._renumber()
            numbers = self._numbers.numbers()
        return {prefix: WORLD if prefix == EVERYWHERE else numbers[prefix] for prefix in prefixes}

    def set_cidrs(self, prefixes: Collection[IPv4Network]) -> None:
        """Have addresses of exactly these prefixes known by their identities, with the next write of the
        kernel's tables."""
        with self._numbers_guard:
            self._active = self._asked = frozenset(prefixes)
            self._renumber()
            self._activate()

    def _renumber(self) -> None:
        """Numbers for what rules name, what addresses are known by, and API servers outside."""
        outside = self._census.external_api_servers()
        if self._numbers.set_wanted(self._asked | (self._active or frozenset()) | outside):
            self._remember()

    def _activate(self) -> None:
        if self._active is None:
            return
        numbers = self._numbers.numbers()
        wanted = self._active | self._census.external_api_servers()
        cidrs = {prefix: numbers[prefix] for prefix in wanted if prefix in numbers}
        if cidrs != self._published.cidrs:
            self._published = self._published._replace(cidrs=cidrs)

    def _remember(self) -> None:
        now = (self._numbers.numbers(), self._census.api_servers)
        if now != self._remembered:
            self._remembered = now
            self._hooks.remember(*now)

    # -- output ------------------------------------------------------------------------------------

    @property
    def known(self) -> Known:
        return self._published

    @property
    def delivered(self) -> Delivered:
        return self._census.delivered

    def sync_soon(self) -> None:
        """Write the kernel's tables: policies hold in another way now."""
        self._put(self._need_sync)

    def _need_sync(self, _census: Census) -> None:
        self._must_sync = True

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        retry = False
        collect_at = time.monotonic() + GARBAGE_INTERVAL
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._stopping or self._inbox, self._pause(collect_at, retry=retry)
                )
                if self._stopping:
                    return
                jobs, self._inbox = self._inbox, deque()
            try:
                for job in jobs:
                    job(self._census)
                self._round()
                if time.monotonic() >= collect_at:
                    collect_at = time.monotonic() + GARBAGE_INTERVAL
                    self._collect()
                retry, self.trouble = False, ""
            except FAILURES as error:
                if str(error) != self.trouble:
                    log.error("identities: %s; trying again", error)
                retry, self.trouble = True, str(error)
            except Exception as error:
                log.exception("identities; trying again")
                retry, self.trouble = True, f"{type(error).__name__}: {error}"
            self.rounds += 1

    def _pause(self, collect_at: float, *, retry: bool) -> float:
        """Seconds until something is due."""
        due = min([collect_at, *self._settling.values()]) - time.monotonic()
        return max(0.0, min(due, RETRY) if retry else due)

    def _settled(self, remote: Mapping[str, RemoteEndpoint]) -> dict[str, int]:
        """Who is where, but pods that changed just now are who they were."""
        shown, known, now = self._published.remote or {}, self._view.world.remote, time.monotonic()
        found = {address: item.identity for address, item in remote.items()}
        settling = {}
        for address, item in remote.items():
            before = known.get(address)
            if shown.get(address, item.identity) != item.identity and before is not None:
                same_pod = (before.namespace, before.pod) == (item.namespace, item.pod)
                due = self._settling.get(address, now + SETTLE)
                if same_pod and due > now:
                    settling[address], found[address] = due, shown[address]
        self._settling = settling
        return found

    def _round(self) -> None:
        """Decide and tell. Publishes before it writes the kernel's tables: others need it, too."""
        assert self._endpoints is not None
        census = self._census
        decisions = census.decide(time.monotonic())
        self._hooks.want(decisions.wanted)
        if decisions.identities:
            self._endpoints.set_identities(decisions.identities)
            census.give(decisions.identities)
            self._must_sync |= not self._hooks.judging()
        own = next((node for node in census.hosts.nodes if node.name == self._node), None)
        if own is not None and census.delivered.nodes:
            self._hooks.publish(own.uid, census.publication())
        self._show()
        if self._must_sync:
            self._endpoints.sync()
            self._must_sync = False

    def _show(self) -> None:
        census, before = self._census, self._published
        remote = census.remote()
        with self._numbers_guard:
            self._renumber()
            self._remember()
            self._activate()
            if census.delivered.nodes:
                identities = self._settled(remote)
                if identities != before.remote:
                    self._published = self._published._replace(remote=identities)
            if census.api_servers != before.api_servers:
                self._published = self._published._replace(api_servers=census.api_servers)
            numbers = self._numbers.numbers()
        self._must_sync |= self._published is not before
        outside = {prefix: numbers[prefix] for prefix in census.external_api_servers()}
        self._view.show(census.world(self._view.world, remote, outside))

    def _collect(self) -> None:
        delivered = self._census.delivered
        if delivered.all and self._hooks.current():
            self._hooks.collect(self._garbage.look(time.monotonic(), *self._census.idle()))
