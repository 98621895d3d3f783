"""The running agent: brings the node in order, keeps it so, and knows whether it is ready.

One task does all background work, one step after another: bring up, then apply changes as they come and
everything again from time to time. Kernel work runs in worker threads; the event loop only talks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from podwire import __version__
from podwire.agent import queue
from podwire.agent.cluster import Cluster
from podwire.agent.cni import CniError
from podwire.agent.config import AgentConfig
from podwire.agent.endpoints import Endpoints
from podwire.agent.events import Events, Names
from podwire.agent.health import Check, Prober
from podwire.agent.identities import Identities
from podwire.agent.kernel import Kernel
from podwire.agent.metrics import read_metrics
from podwire.agent.model import ClusterState, Endpoint, NodeInfo
from podwire.agent.policies import Policies
from podwire.agent.services import Services
from podwire.agent.state import StateError, StateStore
from podwire.bpf import BpfError
from podwire.datapath import Datapath, DatapathError, ServiceSettings
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.reflector import Connection
from podwire.kube.source import FileSource, KubernetesSource, NodeSource
from podwire.net import firewall, host_ports
from podwire.net.links import LinkError
from podwire.net.netlink import NetlinkError
from podwire.net.netns import NetnsError
from podwire.net.rcu import Grace
from podwire.net.watch import HostWatch

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRY = 2.0
"""Seconds between two attempts to bring the node in order."""
HEALTH_RETRY = 0.5
"""Seconds between two looks whether there is a health endpoint to probe from."""
SETTLE = 0.5
"""Seconds to let a change of the host's devices or routes settle: one rarely comes alone."""
WAITING = 64
"""Pods that can start at the same time; further ones queue up."""
HOST_PAUSE = 5.0
"""Seconds at least between two looks because of such changes: a routing daemon may never be quiet."""


class HostError(Exception):
    """This host is not what the configuration says. The message names the key."""


def _foreign_node_ip(cluster: Cluster) -> str:
    there = ", ".join(cluster.addresses())
    return (
        f"node_ip {cluster.node_ip} is not an address of this host, which has {there}: "
        "correct it in agent.yaml and load the datapath with the same one"
    )


_FAILURES = (
    CniError,
    DatapathError,
    BpfError,
    HostError,
    LinkError,
    NetlinkError,
    NetnsError,
    StateError,
    OSError,
)


class Agent:
    """One node's agent. Create it in the event loop, then ``start``."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.started = time.time()
        self.datapath = Datapath(config.bpffs, config.run_dir, config.state_dir, cgroup=config.cgroup_root)
        self.store = StateStore(config.state_dir)
        self.prober = Prober()
        self.endpoints: Endpoints | None = None
        self.cluster: Cluster | None = None
        self._kernel: Kernel | None = None
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="kernel")
        # A pod that starts may wait for its policy: nobody else must wait for that.
        self._waiting_pool = ThreadPoolExecutor(WAITING, thread_name_prefix="cni")
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(partial(KubeClient, config.kubeconfig))
        self._source = self._make_source()
        self.services = Services(config, self.datapath, self._connection, self.run)
        self.policies = Policies(config, self.datapath, self._connection)
        self.identities = Identities(config, self.store, self._connection, self.policies)
        names = Names(self.services.name_of, self.policies.labels, self.policies.rule)
        self.events = Events(self.datapath, config.drop_history, names)
        self._dirty = asyncio.Event()
        self._host_changed = False
        self._watch: HostWatch | None = None
        self._early_nodes: tuple[NodeInfo, ...] | None = None
        self._problem = "starting"
        self._bring_up_seconds: float | None = None
        self._firewall_problem = "not installed yet"
        self._port_problems: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.counters = {
            "cni_add": 0,
            "cni_del": 0,
            "cni_errors": 0,
            "queued_del": 0,
            "resyncs": 0,
            "repaired": 0,
        }

    def _make_source(self) -> NodeSource:
        if self.config.node_source == "file":
            return FileSource(self.config.node_file, self._nodes_from_thread)
        return KubernetesSource(self._connection, self._nodes_from_thread)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._source.start()
        self._tasks = [asyncio.create_task(self._main(), name="main")]
        if self.config.health:
            self._tasks.append(asyncio.create_task(self._probe_forever(), name="probes"))

    def refuse(self) -> None:
        """Let no call of the runtime wait any more."""
        if self.endpoints is not None:
            self.endpoints.close()

    async def stop(self) -> None:
        """End the agent's own work. Links, programs, maps and routes stay: traffic goes on."""
        self._source.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.run(self.identities.stop)
        await self.run(self.policies.stop)
        await self.services.stop()
        self.events.close()
        self.prober.close()
        if self._watch is not None:
            self._watch.close()
        self._waiting_pool.shutdown(wait=True)
        self._pool.shutdown(wait=True)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Do kernel work in a worker thread."""
        return await self._loop.run_in_executor(self._pool, partial(function, *args))

    async def run_waiting(self, function: Callable[..., T], *args: Any) -> T:
        """Do kernel work that may wait for others in between."""
        return await self._loop.run_in_executor(self._waiting_pool, partial(function, *args))

    async def failed(self) -> None:
        """Returns only when background work ended by itself, which it must not; raises its exception."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    # -- readiness ---------------------------------------------------------------------------------

    def reasons(self) -> list[str]:
        """Why the agent cannot serve ADDs; empty when it can."""
        if self._problem:
            return [self._problem]
        if self.cluster is not None and not self.cluster.node_ip_is_ours():
            return [
                f"node_ip {self.cluster.node_ip} is not an address of this host: correct it in agent.yaml"
            ]
        if self.endpoints is None or self.endpoints.ipam()["pod_cidr"] is None:
            return [self._no_pod_cidr()]
        return []

    def _no_pod_cidr(self) -> str:
        own = self.cluster.own if self.cluster else None
        if own is None:
            return f"node {self.config.node_name} is unknown ({self._source.detail})"
        return f"node {self.config.node_name} has no IPv4 podCIDR: kube-controller-manager gives none"

    # -- background work ---------------------------------------------------------------------------

    def _nodes_from_thread(self, nodes: tuple[NodeInfo, ...]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._take_nodes, nodes)

    def _take_nodes(self, nodes: tuple[NodeInfo, ...]) -> None:
        if self.cluster is None:
            self._early_nodes = nodes
        elif self.cluster.set_nodes(nodes):
            self.identities.refresh(self.cluster)
            self._dirty.set()

    async def _main(self) -> None:
        started = time.monotonic()
        while True:
            try:
                await self._bring_up()
                break
            except _FAILURES as error:
                if self._problem != str(error):
                    log.error("cannot serve yet: %s", error)
                self._problem = str(error)
                await asyncio.sleep(RETRY)
        self._bring_up_seconds = time.monotonic() - started
        log.info("ready after %.2f s", self._bring_up_seconds)
        await self._keep()

    async def _bring_up(self) -> None:
        changes = await self.run(self.datapath.reapply)
        for step in changes.steps:
            log.info("datapath: %s", step)
        settings = changes.after["config"]
        self._port_problems = await self.run(
            host_ports.problems, settings["nat_port_min"], settings["nat_port_max"]
        )
        cluster = Cluster(self.config, self.store, settings["node_ip"])
        grace = Grace(self.config.grace_marker)
        grace.restore()  # an agent that was killed may have left it on
        hurry = grace if self.config.expedited_attach else None
        kernel = Kernel(self.datapath, self.config.mtu or settings["mtu"], hurry)

        def state_of(endpoints: tuple[Endpoint, ...]) -> ClusterState:
            return self.identities.complete(cluster.state_of(endpoints))

        endpoints = Endpoints(
            self.store, kernel, state_of, self.services.take_endpoints, self.identities.hooks(),
            workers=self.config.workers,
        )  # fmt: skip
        self._kernel = kernel
        await self.run(self._look_at_policies)
        await self.run(cluster.refresh_host)
        if not cluster.node_ip_is_ours():
            raise HostError(_foreign_node_ip(cluster))
        await self.run(endpoints.restore)
        self.cluster, self.endpoints = cluster, endpoints
        if self._early_nodes is not None:
            cluster.set_nodes(self._early_nodes)  # what came while this was being built
        await self.run(self._sync, True)
        self.events.open()
        self._watch = self._watch or HostWatch(self._is_node_device, self._take_host_change)
        if self.config.netfilter_counter:
            await self.run(self._install_firewall)
        self.identities.begin(cluster, endpoints)
        await self.run(self._look_at_policies)
        await self.run(self._drain)
        self._problem = ""
        service_settings = ServiceSettings.from_dict(settings.get("services", {}))
        await self.run(self.services.begin, cluster, service_settings)

    def _look_at_policies(self) -> None:
        """Begin with policies as soon as the loaded programs know of them. Raises DatapathError or
        BpfError."""
        assert self._kernel
        judges = self._kernel.judges()
        self.identities.set_datapath(judges=judges)
        if judges and self.endpoints is not None:
            self.policies.begin(self.identities.view, self.identities, self._kernel.hurried)

    def _is_node_device(self, index: int) -> bool:
        return self.cluster is not None and self.cluster.is_node_device(index)

    def _take_host_change(self) -> None:
        self._host_changed = True
        self._dirty.set()

    async def _keep(self) -> None:
        due = time.monotonic() + self.config.resync_interval
        next_look = 0.0
        while True:
            await self._publish_health()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), max(0.0, due - time.monotonic()))
            if self._host_changed:
                await asyncio.sleep(max(SETTLE, next_look - time.monotonic()))
                next_look = time.monotonic() + HOST_PAUSE
            self._dirty.clear()
            host_changed, self._host_changed = self._host_changed, False
            full = time.monotonic() >= due
            if full:
                due = time.monotonic() + self.config.resync_interval
            try:
                if full:
                    await self._look_around()
                elif host_changed:
                    assert self.cluster and self.endpoints
                    await self.run(self.cluster.refresh_host)
                    self.identities.refresh(self.cluster)
                    await self.run(self.endpoints.distrust_routes)
                await self.run(self._sync, full or host_changed)
            except _FAILURES as error:
                log.error("resync: %s", error)

    async def _look_around(self) -> None:
        """What is only done from time to time."""
        assert self.cluster and self.endpoints
        await self.run(self.cluster.refresh_host)
        self.identities.refresh(self.cluster)
        await self.run(self._look_at_policies)
        await self.run(self._drain)
        await self.run(self.endpoints.collect_dead)
        self.policies.look_soon()
        self.events.open()
        self.counters["resyncs"] += 1

    def _sync(self, full: bool) -> None:
        assert self.cluster and self.endpoints
        own = self.cluster.own
        if own is not None and own.pod_cidr:
            try:
                if self.endpoints.set_pod_cidr(own.pod_cidr):
                    log.info("podCIDR is %s", own.pod_cidr)
            except ValueError as error:
                log.error("%s", error)
        report = self.endpoints.sync(full=full)
        if report.drift:
            log.warning("changed by somebody else and put right: %s", report.drift)
            self.counters["repaired"] += sum(report.drift.values())
        if self.config.health:
            try:
                self.endpoints.ensure_health(self.config.health_netns)
            except CniError as error:  # the gate reports it; pods can be served all the same
                log.error("health endpoint: %s", error.msg)
        self.services.refresh(self.cluster)

    def _drain(self) -> None:
        assert self.endpoints
        self.counters["queued_del"] += queue.drain(self.config.queue_dir, self.endpoints.delete)

    def _install_firewall(self) -> None:
        try:
            firewall.install(self.config.cluster_cidrs)
            self._firewall_problem = ""
        except firewall.FirewallError as error:
            log.warning("netfilter packets are not counted: %s", error)
            self._firewall_problem = str(error)

    async def _publish_health(self) -> None:
        own = self.cluster.own if self.cluster else None
        endpoint = self.endpoints.health() if self.endpoints else None
        if own is None or endpoint is None or not self._source.connected:
            return
        if own.health_address == endpoint.address:
            return
        try:
            await self.run(self._source.publish_health_address, own.name, endpoint.address)
        except ApiError as error:
            log.warning("health address is not published: %s", error)

    async def _probe_forever(self) -> None:
        while True:
            if not self._problem:
                await self.probe()
            if self._problem:
                pause = RETRY
            elif self.prober.attached:
                pause = self.config.health_interval
            else:  # the prefix that the health endpoint's address is from may come any moment
                pause = HEALTH_RETRY
            await asyncio.sleep(pause)

    async def probe(self) -> None:
        """Run a round of probes now."""
        endpoint = self.endpoints.health() if self.endpoints else None
        try:
            if endpoint is not None:
                await self.prober.attach(endpoint)
        except _FAILURES as error:
            log.error("health endpoint: %s", error)
        await self.prober.round(self.cluster.nodes if self.cluster else (), self.config.node_name)

    # -- answers -----------------------------------------------------------------------------------

    async def health(self, *, probe: bool) -> tuple[bool, list[Check]]:
        """The gate: agent, datapath, and what the probes say."""
        if probe and self.config.health and not self._problem:
            await self.probe()
        reasons = self.reasons()
        checks = [Check("agent", not reasons, "; ".join(reasons) or "ready")]
        try:
            status = await self.run(self.datapath.status)
            problems = list(status.problems)
            detail = (
                f"{status.mode} host routing, {status.attach}, {len(status.endpoints)} endpoints attached"
            )
        except (DatapathError, BpfError) as error:
            problems, detail = [str(error)], ""
        checks.append(Check("datapath", not problems, "; ".join(problems) or detail))
        if probe:  # a rollout asks without at a time when the datapath does not translate services yet
            await self._look_at_datapath()
            checks += [*self.services.checks(), *self.policies.checks()]
        if self.config.health:
            checks += self.prober.checks or [Check("pod", False, "not probed yet")]
        return all(check.ok for check in checks), checks

    async def _look_at_datapath(self) -> None:
        """Take note of a datapath that was loaded anew: a rollout asks right after it did that."""
        if self.cluster is None:
            return
        try:
            await self.run(self.services.refresh, self.cluster)
            await self.run(self._look_at_policies)
        except _FAILURES as error:
            log.error("looking at the datapath: %s", error)

    async def status(self) -> dict[str, Any]:
        reasons = self.reasons()
        return {
            "node": self.config.node_name,
            "node_ip": self.cluster.node_ip if self.cluster else None,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - self.started, 1),
            "bring_up_seconds": self._bring_up_seconds,
            "ready": not reasons,
            "reasons": reasons,
            "problems": self._problems(),
            "datapath": await self.run(self._datapath_status),
            "ipam": self.endpoints.ipam() if self.endpoints else {"pod_cidr": None, "size": 0, "used": 0},
            "endpoints": len(self.endpoints.all()) if self.endpoints else 0,
            "kubernetes": {
                "source": self.config.node_source,
                "connected": self._source.connected,
                "detail": self._source.detail,
                "nodes": len(self.cluster.nodes) if self.cluster else 0,
            },
            "identities": self.identities.status(),
            "policies": await self.run(self.policies.status),
            "services": await self.run(self.services.status),
            "counters": dict(self.counters),
            **(await self.run(self._netfilter)),
        }

    def _problems(self) -> list[str]:
        """What does not keep pods from being served but wants attention."""
        cluster = self.cluster.problems() if self.cluster else []
        endpoints = self.endpoints.problems() if self.endpoints else []
        identities = [*self.identities.problems(), *self.policies.problems()]
        return [
            *cluster,
            *endpoints,
            *identities,
            *self.services.problems(),
            *self._port_problems,
        ]

    def _datapath_status(self) -> dict[str, Any]:
        try:
            return self.datapath.status().to_dict()
        except (DatapathError, BpfError) as error:
            return {"installed": False, "problems": [str(error)]}

    def _netfilter(self) -> dict[str, Any]:
        if self.config.netfilter_counter and not self._firewall_problem:
            try:
                return {"netfilter_forward_packets": firewall.forward_packets(), "netfilter_problem": ""}
            except firewall.FirewallError as error:
                return {"netfilter_forward_packets": None, "netfilter_problem": str(error)}
        problem = (
            self._firewall_problem
            if self.config.netfilter_counter
            else "switched off (netfilter_counter: false)"
        )
        return {"netfilter_forward_packets": None, "netfilter_problem": problem}

    async def metrics(self) -> dict[str, Any]:
        """Raises DatapathError or BpfError."""
        decoder = self.events.decoder
        if decoder is None:
            raise DatapathError("the datapath is not loaded yet")
        return await self.run(read_metrics, self.datapath, decoder)

    async def set_host_routing(self, mode: str, *, dry_run: bool) -> dict[str, Any]:
        """Switch the mode; connections go on. Raises DatapathError."""
        change = await self.run(partial(self.datapath.set_host_routing, mode, dry_run=dry_run))
        if change.changed and not dry_run:
            log.info("host routing: %s -> %s %s", change.before, change.after, change.reason)
            if self.endpoints is not None:
                await self.run(partial(self.endpoints.sync, full=True))
        return change.to_dict()
