"""Endpoints of this node: create, remove, check, restore. Blocking; runs in worker threads.

Order of an ADD: link with programs attached -> record on disk -> identity and policy known -> maps, route,
revision -> answer. The programs drop everything from an interface that the maps do not know, and an endpoint
whose policy is not known is closed, so a pod is never on the network without its rules; a crash between two
steps leaves either a link without a record (removed at start) or a whole endpoint. Order of a DEL: maps and
route -> link -> record -> address free again. A DEL that fails half-way is simply repeated."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from podwire.agent import cni
from podwire.agent.cni import CniError, Code
from podwire.agent.desired import Desired, desired
from podwire.agent.ipam import AddressPool, Exhausted, SlotPool
from podwire.agent.kernel import Kernel
from podwire.agent.locks import KeyedLocks
from podwire.agent.model import (
    CLOSED,
    HEALTH_CONTAINER_ID,
    OPEN,
    ClusterState,
    Endpoint,
    PolicyAssignment,
    PortMapping,
    Standing,
    endpoint_key,
    host_ifname,
    pod_mac,
)
from podwire.agent.reconcile import Report
from podwire.agent.state import StateError, StateStore
from podwire.bpf import BpfError
from podwire.datapath import HOST_MAC, DatapathError, NotInstalled
from podwire.net import netns
from podwire.net.links import LinkError
from podwire.net.netlink import NetlinkError
from podwire.net.values import NetnsId
from podwire.policy.identity import HEALTH, INIT, UNMANAGED
from podwire.policy.model import Labels

log = logging.getLogger(__name__)

StateOf = Callable[[tuple[Endpoint, ...]], ClusterState]
"""Completes a set of endpoints to the state of the whole node."""
OnChange = Callable[[tuple[Endpoint, ...]], None]
"""Told of the endpoints that are here now, whenever these may have changed. Must not block."""
Assign = Callable[[str, int], PolicyAssignment | None]
"""The policy of an endpoint (its key) as one of an identity (0: not known yet); None while it is not known.
Must neither block nor ask Endpoints anything."""
MOST_REASONS = 20
"""Failures that are told one by one."""
POLICY_WAIT = 10.0
"""Seconds that an ADD waits for identity and policy."""


def no_policies(key: str, identity: int) -> PolicyAssignment | None:
    """Everything passes."""
    return OPEN


class PolicyHooks(NamedTuple):
    """Who gives endpoints their identities and policies."""

    assign: Assign = no_policies
    changed: OnChange = lambda endpoints: None
    """Told as early as possible: before an endpoint's identity and policy are waited for."""
    wait: float = POLICY_WAIT
    """Seconds that an ADD waits for them."""


NO_POLICIES = PolicyHooks()


@dataclass(frozen=True, slots=True)
class _Attachment:
    """What a new endpoint is made from."""

    container_id: str
    ifname: str
    netns: str
    args: dict[str, str]
    port_mappings: tuple[PortMapping, ...] = ()

    @property
    def key(self) -> str:
        return endpoint_key(self.container_id, self.ifname)


class Endpoints:
    """Every endpoint of this node, and the addresses and slots they hold."""

    def __init__(
        self,
        store: StateStore,
        kernel: Kernel,
        state_of: StateOf,
        on_change: OnChange = lambda endpoints: None,
        hooks: PolicyHooks = NO_POLICIES,
        *,
        workers: int = 4,
    ) -> None:
        """``workers``: so many ADDs do kernel work at once; those that wait for a policy do not count."""
        self._store = store
        self._on_change = on_change
        self._hooks = hooks
        self._closing = False
        self._turns = threading.Semaphore(workers)
        self._standings: dict[str, Standing] = {}  # as last written
        self._kernel = kernel
        self._state_of = state_of
        self._endpoints: dict[str, Endpoint] = {}
        self._leaving: set[str] = set()
        self._guard = threading.Lock()  # the pools and registries
        self._news = threading.Condition(self._guard)  # an identity or a policy may be known now
        self._sync_guard = threading.Lock()  # snapshot and apply belong together
        self._keys = KeyedLocks()
        self._addresses: AddressPool | None = None
        self._slots = SlotPool(1)
        self._last: Desired = Desired()
        self._failures: dict[tuple[str, Any], str] = {}

    # -- questions ---------------------------------------------------------------------------------

    def all(self) -> tuple[Endpoint, ...]:
        with self._guard:
            return tuple(self._endpoints[key] for key in sorted(self._endpoints))

    def health(self) -> Endpoint | None:
        with self._guard:
            return self._endpoints.get(endpoint_key(HEALTH_CONTAINER_ID, "eth0"))

    def ipam(self) -> dict[str, Any]:
        """podCIDR, how many addresses it has for pods and how many are taken."""
        with self._guard:
            pool = self._addresses
            if pool is None:
                return {"pod_cidr": None, "size": 0, "used": 0}
            return {"pod_cidr": pool.cidr, "size": pool.size, "used": pool.used}

    # -- input -------------------------------------------------------------------------------------

    def set_pod_cidr(self, cidr: str) -> bool:
        """Give addresses from ``cidr`` from now on; endpoints keep what they have. True when it changed.

        Raises ValueError when the range cannot be used."""
        with self._guard:
            if self._addresses is not None and self._addresses.cidr == cidr:
                return False
            pool = AddressPool(cidr)
            for endpoint in self._endpoints.values():
                pool.take(endpoint.address)
            self._addresses = pool
            return True

    def sync(self, *, full: bool = False) -> Report:
        """Make the kernel match. Raises DatapathError, BpfError or NetlinkError when it cannot be reached at
        all."""
        with self._sync_guard:
            staying = self._staying()
            standings = {endpoint.key: self._standing(endpoint) for endpoint in staying}
            state = replace(self._state_of(staying), standings=standings)
            want = desired(state)
            report = self._kernel.apply(
                want,
                full=full,
                nodes_known=bool(state.nodes),
                identities_known=state.remote is not None and state.cidrs is not None,
            )
            self._last = want
            self._failures = report.failures
            self._note_written(staying, standings, report)
            self._hooks.changed(staying)
            self._on_change(staying)
            return report

    def _standing(self, endpoint: Endpoint) -> Standing:
        """As whom an endpoint sends, and what judges it: both change together."""
        if endpoint.health:
            return Standing(HEALTH)
        policy = self._hooks.assign(endpoint.key, endpoint.identity)
        if policy is not None:
            return Standing(endpoint.identity, policy)
        return self._standings.get(endpoint.key) or Standing(endpoint.identity or INIT, CLOSED)

    def _note_written(
        self, endpoints: tuple[Endpoint, ...], standings: Mapping[str, Standing], report: Report
    ) -> None:
        """What could not be written stays as it was: nobody may take its policy for free."""
        before = self._standings
        self._standings = {
            endpoint.key: (
                before.get(endpoint.key, standings[endpoint.key])
                if ("endpoints4", endpoint.address) in report.failures
                else standings[endpoint.key]
            )
            for endpoint in endpoints
        }
        self.look_again()

    # -- identities --------------------------------------------------------------------------------

    def set_identities(self, identities: Mapping[str, tuple[int, Labels]]) -> None:
        """Give endpoints (by key) an identity and its labels. They take effect with the next ``sync``.

        Raises StateError when one cannot be remembered across a restart; they are taken all the same."""
        failure: StateError | None = None
        for key, (identity, labels) in identities.items():
            with self._guard:
                known = self._endpoints.get(key)
                if known is None or (known.identity, known.labels) == (identity, labels):
                    continue
                known = self._endpoints[key] = replace(known, identity=identity, labels=labels)
                try:
                    self._store.save_endpoint(known)  # under the guard: a removal must not be undone
                except StateError as error:
                    failure = error
        self.look_again()
        if failure is not None:
            raise failure

    def standing(self, key: str) -> Standing | None:
        """As whom an endpoint sends and what judges it, as last written; None when it is in no map."""
        return self._standings.get(key)

    def policies_in_use(self) -> set[int]:
        """Numbers of policy maps that endpoints are judged by, as last written."""
        return {standing.policy.number for standing in self._standings.values()}

    def look_again(self) -> None:
        """Have those who wait for an identity or a policy look again."""
        with self._news:
            self._news.notify_all()

    def close(self) -> None:
        """Let nobody wait any more: the agent is being stopped."""
        self._closing = True
        self.look_again()

    def _await_policy(self, key: str) -> None:
        """Wait until the policy of a new endpoint is known. In vain: it starts closed.

        Raises CniError when the agent ends meanwhile."""

        def known() -> bool:
            endpoint = self._endpoints.get(key)
            return endpoint is None or self._hooks.assign(key, endpoint.identity) is not None

        self._turns.release()
        try:
            with self._news:
                self._news.wait_for(lambda: self._closing or known(), self._hooks.wait)
                if known():
                    return
                if self._closing:
                    raise CniError(Code.TRY_AGAIN_LATER, "podwire-agent is being stopped")
                endpoint = self._endpoints[key]
                # One whose policy alone is missing keeps its identity.
                self._endpoints[key] = replace(endpoint, identity=endpoint.identity or INIT)
        finally:
            self._turns.acquire()
        log.warning("%s starts closed: its identity or policy is not known after %g s", key, self._hooks.wait)

    def _staying(self) -> tuple[Endpoint, ...]:
        with self._guard:
            return tuple(e for key, e in self._endpoints.items() if key not in self._leaving)

    def distrust_routes(self) -> None:
        """The host's routes or devices changed: decisions that rest on them are made again. Raises
        BpfError."""
        self._kernel.slots.bump([0])

    def problems(self) -> list[str]:
        """What of the desired state makes no sense or could not be applied, as sentences."""
        reasons = list(dict.fromkeys(self._failures.values()))
        more = len(reasons) - MOST_REASONS
        if more > 0:
            reasons[MOST_REASONS:] = [f"{more} more entries could not be written"]
        return [*self._last.problems, *reasons]

    # -- requests of the runtime -------------------------------------------------------------------

    def add(self, request: cni.Request) -> dict[str, Any]:
        """Give a container its interface; asking again for the same one gives the same answer.

        Raises CniError; nothing is left behind then."""
        attachment = _Attachment(
            request.container_id, request.ifname, request.netns, dict(request.args), request.port_mappings
        )
        with (
            self._keys.hold(attachment.key),
            self._turns,
            _translated(),
            self._opened(request.netns) as fd,
        ):
            endpoint = self._reusable(attachment.key, netns.netns_id(fd))
            if endpoint is None:
                endpoint = self._create(attachment, fd, None)
            elif self._standings.get(endpoint.key, Standing(INIT, CLOSED)).policy.number == CLOSED.number:
                self._await_policy(endpoint.key)  # the call before this one did not get so far
                self._require_applied(endpoint, self.sync())
            return cni.add_result(
                request, address=endpoint.address, pod_mac=endpoint.mac, host_ifname=endpoint.host_ifname,
                host_mac=HOST_MAC, mtu=self._kernel.mtu,
            )  # fmt: skip

    def delete(self, container_id: str, ifname: str) -> bool:
        """Remove an endpoint and everything that belongs to it. False when it was not known, which is fine.

        Raises CniError when something could not be removed; a repeated call goes on there."""
        key = endpoint_key(container_id, ifname)
        with self._keys.hold(key), _translated():
            with self._guard:
                known = self._endpoints.get(key)
            if known is None:
                # An ADD that was interrupted may have left a link.
                self._kernel.unplumb(host_ifname(container_id, ifname), 0)
                self._store.delete_endpoint(key)
                return False
            self._remove(known)
            return True

    def check(self, request: cni.Request) -> None:
        """Raises CniError when the endpoint is not as ADD left it."""
        with self._guard:
            known = self._endpoints.get(endpoint_key(request.container_id, request.ifname))
        if known is None:
            raise CniError(
                Code.UNKNOWN_CONTAINER, f"container {request.container_id} has no {request.ifname} here"
            )
        cni.check_prev_result(request, address=known.address, host_ifname=known.host_ifname)
        with _translated():
            if netns.identify(request.netns) != known.netns_id:
                raise CniError(
                    Code.UNKNOWN_CONTAINER, f"{request.netns} is not the namespace of this container"
                )
            problem = self._kernel.intact(known)
        if problem:
            raise CniError(
                Code.INTERNAL, f"{request.ifname} of {request.container_id}: {problem}", "recreate the pod"
            )

    def collect(self, valid: frozenset[tuple[str, str]]) -> int:
        """Remove endpoints that the runtime no longer knows; returns how many. Raises CniError at the first
        failure."""
        removed = 0
        for endpoint in self.all():
            if not endpoint.health and (endpoint.container_id, endpoint.ifname) not in valid:
                removed += self.delete(endpoint.container_id, endpoint.ifname)
        return removed

    def collect_dead(self) -> int:
        """Remove endpoints whose network namespace is gone: nobody will ever ask for their DEL. Returns how
        many."""
        removed = 0
        for endpoint in self.all():
            if netns.identify(endpoint.netns) != endpoint.netns_id:
                log.info("namespace of %s is gone: removing it", endpoint.key)
                removed += self.delete(endpoint.container_id, endpoint.ifname)
        return removed

    # -- the health endpoint -----------------------------------------------------------------------

    def ensure_health(self, name: str) -> Endpoint | None:
        """The node's health endpoint, created when needed; None while there is no podCIDR. Raises
        CniError."""
        with self._guard:
            pool = self._addresses
        if pool is None:
            return None
        key = endpoint_key(HEALTH_CONTAINER_ID, "eth0")
        with self._keys.hold(key), _translated():
            path = str(netns.create(name))
            with self._opened(path) as fd:
                with self._guard:
                    known = self._endpoints.get(key)
                if known is not None and known.address != pool.health_address:
                    self._remove(known)
                endpoint = self._reusable(key, netns.netns_id(fd))
                if endpoint is None:
                    attachment = _Attachment(HEALTH_CONTAINER_ID, "eth0", path, {})
                    endpoint = self._create(attachment, fd, pool.health_address)
                return endpoint

    # -- start -------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Take over what an earlier agent left: keep what lives, finish what it began, remove the rest.

        Raises DatapathError, LinkError, BpfError or StateError when the node cannot be brought in order."""
        self._slots = SlotPool(self._kernel.slots.count)
        links = self._kernel.own_links()
        attached = self._kernel.datapath.attached()
        written = self._kernel.standings()
        for record in self._store.load_endpoints():
            if netns.identify(record.netns) != record.netns_id:
                log.info("namespace of %s is gone: removing it", record.key)
                self._store.delete_endpoint(record.key)
                continue
            endpoint = self._adopt(record)
            if endpoint is None:
                continue
            link = links.pop(endpoint.host_ifname, None)
            endpoint = self._revive(endpoint, link.index if link else None)
            if endpoint is None:
                continue
            if {"from_pod", "to_pod"} - attached.get(endpoint.host_ifindex, set()):
                self._kernel.attach(endpoint.host_ifindex)
            self._endpoints[endpoint.key] = endpoint
            self._inherit(endpoint, written.get(endpoint.address))
        for leftover in links.values():
            log.info("interface %s belongs to no endpoint: removing it", leftover.name)
            self._kernel.unplumb(leftover.name, leftover.index)
        self._kernel.datapath.sweep()
        self._kernel.invalidate_all()

    def _inherit(self, endpoint: Endpoint, written: Standing | None) -> None:
        """An endpoint keeps its policy across a restart, until its present one is known. One that an agent of
        before policies made had none."""
        if written is not None:
            self._standings[endpoint.key] = written
        elif endpoint.identity == UNMANAGED:
            self._standings[endpoint.key] = Standing(UNMANAGED)

    def _adopt(self, record: Endpoint) -> Endpoint | None:
        """Check a record's address and slot against those taken over already."""
        if any(other.address == record.address for other in self._endpoints.values()):
            log.error("endpoint %s claims address %s of another one: dropped", record.key, record.address)
            self._store.delete_endpoint(record.key)
            return None
        if self._slots.holds(record.slot) or not 0 < record.slot < self._kernel.slots.count:
            record = replace(record, slot=self._slots.allocate())
            self._store.save_endpoint(record)
        self._slots.take(record.slot)
        return record

    def _revive(self, endpoint: Endpoint, index: int | None) -> Endpoint | None:
        """Follow a link that has another index now, build one that is gone."""
        if index == endpoint.host_ifindex:
            return endpoint
        if index is None:
            log.warning("interface %s of %s is gone: building it again", endpoint.host_ifname, endpoint.key)
            spec = self._kernel.pair_spec(endpoint.host_ifname, endpoint.ifname, endpoint.mac)
            try:
                with self._opened(endpoint.netns) as fd:
                    index = self._kernel.plumb(spec, fd, endpoint.address)
            except (CniError, LinkError, netns.NetnsError, OSError) as error:
                log.error("endpoint %s cannot be built again and is dropped: %s", endpoint.key, error)
                self._store.delete_endpoint(endpoint.key)
                self._slots.release(endpoint.slot)
                return None
        endpoint = replace(endpoint, host_ifindex=index)
        self._store.save_endpoint(endpoint)
        return endpoint

    # -- parts -------------------------------------------------------------------------------------

    def _reusable(self, key: str, where: NetnsId) -> Endpoint | None:
        """The endpoint as it is, when a repeated ADD may have it; one that is damaged is removed first."""
        with self._guard:
            known = self._endpoints.get(key)
            leaving = key in self._leaving
        if known is None:
            return None
        problem = "it is being removed" if leaving else ""
        if not problem and known.netns_id != where:
            problem = "it belongs to another namespace"
        problem = problem or self._kernel.intact(known)
        if not problem:
            return known
        log.info("endpoint %s is made anew: %s", key, problem)
        self._remove(known)
        return None

    def _create(self, attachment: _Attachment, fd: int, address: str | None) -> Endpoint:
        with contextlib.ExitStack() as undo:
            address = self._take_address(address, undo)
            slot = self._take_slot(undo)
            name = host_ifname(attachment.container_id, attachment.ifname)
            mac = pod_mac(attachment.container_id, attachment.ifname)
            index = self._kernel.plumb(self._kernel.pair_spec(name, attachment.ifname, mac), fd, address)
            undo.callback(self._quietly, self._kernel.unplumb, name, index)
            endpoint = Endpoint(
                container_id=attachment.container_id,
                ifname=attachment.ifname,
                netns=attachment.netns,
                netns_id=netns.netns_id(fd),
                address=address,
                mac=mac,
                host_ifname=name,
                host_ifindex=index,
                slot=slot,
                pod_namespace=attachment.args.get("K8S_POD_NAMESPACE", ""),
                pod_name=attachment.args.get("K8S_POD_NAME", ""),
                pod_uid=attachment.args.get("K8S_POD_UID", ""),
                created=time.time(),
                port_mappings=attachment.port_mappings,
            )
            self._store.save_endpoint(endpoint)
            undo.callback(self._quietly, self._store.delete_endpoint, endpoint.key)
            self._register(endpoint)
            undo.callback(self._quietly, self._unregister, endpoint.key)
            if not endpoint.health:
                self._hooks.changed(self._staying())
                self._await_policy(endpoint.key)
            self._require_applied(endpoint, self.sync())
            undo.pop_all()
            return endpoint

    def _remove(self, endpoint: Endpoint) -> None:
        with self._guard:
            self._leaving.add(endpoint.key)
        self.sync()
        self._kernel.unplumb(endpoint.host_ifname, endpoint.host_ifindex)
        self._store.delete_endpoint(endpoint.key)
        with self._guard:
            self._endpoints.pop(endpoint.key, None)
            self._leaving.discard(endpoint.key)
            self._slots.release(endpoint.slot)
            if self._addresses is not None:
                self._addresses.release(endpoint.address)

    def _take_address(self, fixed: str | None, undo: contextlib.ExitStack) -> str:
        with self._guard:
            pool = self._addresses
            if pool is None:
                raise CniError(
                    Code.TRY_AGAIN_LATER,
                    "this node has no podCIDR yet, so there are no pod addresses",
                    "see `podwire status`; kube-controller-manager must run with --allocate-node-cidrs=true",
                )
            if fixed is not None:
                return fixed
            address = pool.allocate()
        undo.callback(self._locked, pool.release, address)
        return address

    def _take_slot(self, undo: contextlib.ExitStack) -> int:
        with self._guard:
            slot = self._slots.allocate()
        undo.callback(self._locked, self._slots.release, slot)
        return slot

    def _locked(self, function: Callable[..., None], *args: Any) -> None:
        with self._guard:
            function(*args)

    def _register(self, endpoint: Endpoint) -> None:
        with self._guard:
            self._endpoints[endpoint.key] = endpoint
            if self._addresses is not None:
                self._addresses.take(endpoint.address)  # the podCIDR may have changed meanwhile

    def _unregister(self, key: str) -> None:
        with self._guard:
            self._endpoints.pop(key, None)
        self.sync()

    @staticmethod
    def _require_applied(endpoint: Endpoint, report: Report) -> None:
        for table, key in (("endpoints4", endpoint.address), ("routes", f"{endpoint.address}/32")):
            reason = report.failures.get((table, key))
            if reason:
                raise CniError(Code.DATAPATH, f"cannot connect {endpoint.key}: {reason}")

    @staticmethod
    def _quietly(function: Callable[..., Any], *args: Any) -> None:
        """Undo a step; a failure is logged, because the failure that led here is the one to report."""
        try:
            function(*args)
        except Exception:
            log.exception("while undoing a failed ADD")

    @staticmethod
    @contextlib.contextmanager
    def _opened(path: str) -> Any:
        try:
            fd = netns.open_netns(path)
        except netns.NetnsError as error:
            raise CniError(Code.UNKNOWN_CONTAINER, str(error)) from error
        try:
            yield fd
        finally:
            os.close(fd)


@contextlib.contextmanager
def _translated() -> Any:
    """Turn what can go wrong on a node into errors of the CNI specification."""
    try:
        yield
    except StateError as error:
        raise CniError(Code.IO_FAILURE, str(error)) from error
    except Exhausted as error:
        raise CniError(Code.NO_ADDRESS, str(error)) from error
    except NotInstalled as error:
        raise CniError(Code.TRY_AGAIN_LATER, str(error)) from error
    except (DatapathError, BpfError) as error:
        raise CniError(Code.DATAPATH, str(error)) from error
    except (LinkError, NetlinkError, netns.NetnsError, OSError) as error:
        raise CniError(Code.INTERNAL, str(error)) from error
