"""Services in eBPF, in place of kube-proxy: the agent's part of it, put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from podwire.agent.cluster import Cluster
from podwire.agent.config import AgentConfig
from podwire.agent.flow_reset import FlowReset
from podwire.agent.health import Check
from podwire.agent.host_ports import by_pod
from podwire.agent.model import Endpoint
from podwire.agent.service_controller import Hooks, ServiceController
from podwire.agent.service_flows import CONNECTIONS, Stale, forget
from podwire.agent.service_health import HealthPorts
from podwire.agent.service_maglev import KernelMaglev
from podwire.agent.service_maps import ServiceMaps
from podwire.agent.service_sockets import REVERSE, Ended, end_sockets
from podwire.agent.service_source import FileServices, KubernetesServices, ServiceSource
from podwire.agent.service_tables import BACKENDS, MAGLEV, SERVICES
from podwire.datapath import Datapath, DatapathError, ServiceSettings
from podwire.kube.events import Event, Reporter, Subject
from podwire.kube.reflector import Connection
from podwire.service.model import HostPort, Name, Problem
from podwire.service.registry import Limits
from podwire.service.report import service_details, service_list

log = logging.getLogger(__name__)

T = TypeVar("T")
RunInThread = Callable[..., Awaitable[Any]]
SETTLE = 5.0
"""Seconds that a problem of a service must last before it is told."""
APPLY = "load it again with the role podwire.ebpf.datapath, or `podwire datapath apply`"


class Services:
    """Everything about services on this node. Create it in the event loop, ``begin`` once the maps are
    there."""

    def __init__(
        self, config: AgentConfig, datapath: Datapath, connection: Connection, run: RunInThread
    ) -> None:
        """``run`` does kernel work in a worker thread."""
        self._config = config
        self._run = run
        self._datapath = datapath
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._settings = ServiceSettings()
        self._maglev = KernelMaglev(datapath)
        self._maps: tuple[int, ...] = ()
        self._endpoints: tuple[Endpoint, ...] = ()
        self._sockets_problem = ""
        self._host_ports: dict[Name, tuple[str, tuple[HostPort, ...]]] = {}
        self._host_ports_guard = threading.Lock()
        self._flows = FlowReset(self._forget)
        self.health_ports = HealthPorts()
        self._reporter: Reporter | None = None
        self._source: ServiceSource | None = None
        self.controller: ServiceController | None = None

    # -- life --------------------------------------------------------------------------------------

    def begin(self, cluster: Cluster, settings: ServiceSettings) -> None:
        """Take over what an earlier agent left, and follow services from now on. Blocks, for about a
        second where there are ten thousand.

        Raises DatapathError or BpfError."""
        self._settings = settings
        if not self._config.kube_proxy_replacement or self.controller is not None:
            return
        self._maglev.resize(settings.maglev_size)
        maps = ServiceMaps(self._datapath.map, self._maglev)
        hooks = Hooks(
            self._in_loop(self._flows.add),
            self._in_loop(self.health_ports.set_checks),
            self._in_loop(self._settle),
        )
        controller = ServiceController(maps, cluster.service_context(settings), self._limits(), hooks)
        self._maps = self._pinned_maps()
        self.controller = controller
        self.take_endpoints(self._endpoints)  # before anything is written, lest their host ports be removed
        self.refresh(cluster)
        controller.start()
        self._source = self._make_source(controller)
        self._source.start()

    def _limits(self) -> Limits:
        """What the maps hold. Lists that are being replaced need room beside the new ones."""
        return Limits(
            frontends=self._datapath.map(SERVICES).info.max_entries,
            backends=self._datapath.map(BACKENDS).info.max_entries * 3 // 4,
        )

    def _make_source(self, controller: ServiceController) -> ServiceSource:
        if self._config.node_source == "file":
            return FileServices(self._config.service_file, controller)
        self._reporter = Reporter(self._connection, self._config.node_name)
        return KubernetesServices(self._connection, controller)

    async def stop(self) -> None:
        """End the work. What is in the kernel goes on serving."""
        if self._source is not None:
            self._source.stop()
        if self._reporter is not None:
            self._reporter.stop()
        if self.controller is not None:
            await self._run(self.controller.stop)
        await self._flows.close()
        await self.health_ports.close()

    # -- input -------------------------------------------------------------------------------------

    def refresh(self, cluster: Cluster) -> None:
        """Take what is known of the nodes and of the datapath now. Blocks.

        Raises DatapathError, BpfError or OSError."""
        settings = self._datapath.place.known().config.services
        changed, self._settings = settings != self._settings, settings
        if self.controller is None:
            return
        self.controller.set_context(cluster.service_context(settings))
        self._in_loop(self.health_ports.set_addresses)(cluster.addresses())
        maps, self._maps = self._maps, self._pinned_maps()
        if changed or maps != self._maps:
            self._maglev.resize(settings.maglev_size)
            self.controller.compare_soon()

    def _pinned_maps(self) -> tuple[int, ...]:
        """Which maps these are: an apply with other sizes puts new ones in place, and they are empty."""
        return tuple((self._datapath.maps / name).stat().st_ino for name in (SERVICES, BACKENDS, MAGLEV))

    def take_endpoints(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Take the pods that are here now: some may have host ports."""
        self._endpoints = endpoints
        if self.controller is not None:
            self._set_host_ports(self.controller, by_pod(endpoints))

    def _set_host_ports(
        self, controller: ServiceController, wanted: dict[Name, tuple[str, tuple[HostPort, ...]]]
    ) -> None:
        with self._host_ports_guard:
            before, self._host_ports = self._host_ports, wanted
            for pod in before.keys() - wanted.keys():
                controller.set_host_ports(pod, ())
            for pod, (created, ports) in wanted.items():
                if before.get(pod) != (created, ports):
                    controller.set_host_ports(pod, ports, created)

    # -- what the controller tells, in its thread --------------------------------------------------

    def _in_loop(self, function: Callable[[T], None]) -> Callable[[T], None]:
        """Have the event loop call ``function``, from any thread."""

        def call(argument: T) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(function, argument)

        return call

    def _settle(self, problems: Sequence[Problem]) -> None:
        """A service and its slices never change at the same moment: what is still wrong after a while is
        told."""
        self._loop.call_later(SETTLE, lambda: asyncio.ensure_future(self._run(self._report, problems)))

    def _report(self, problems: Sequence[Problem]) -> None:
        if self.controller is None:
            return
        present = set(self.controller.problems())
        for problem in problems:
            if problem not in present:
                continue
            log.warning("%s %s/%s: %s", problem.kind, problem.namespace, problem.name, problem.message)
            if self._reporter is None or not problem.namespace:
                continue  # there is no API, or it is a container that is no pod of it
            service = self.controller.registry.service(Name(problem.namespace, problem.name))
            uid = service.uid if service is not None and problem.kind == "Service" else ""
            subject = Subject(problem.kind, problem.namespace, problem.name, uid)
            self._reporter.report(Event(subject, problem.reason, problem.message))

    async def _forget(self, stale: Stale) -> int:
        count: int = await self._run(self._forget_in_kernel, stale)
        return count

    def _forget_in_kernel(self, stale: Stale) -> int:
        ended = Ended()
        if self._settings.enabled:
            ended = end_sockets(self._datapath.map(REVERSE), stale, [item.netns for item in self._endpoints])
        if ended.reason and ended.reason != self._sockets_problem:
            log.warning("UDP sockets keep backends that left: %s", ended.reason)
        self._sockets_problem = ended.reason
        return ended.sockets + forget(self._datapath.map(CONNECTIONS), stale)

    # -- questions ---------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What keeps services as a whole from working as configured, as sentences."""
        problems = []
        if self._config.kube_proxy_replacement and not self._settings.enabled:
            problems.append(
                f"kube_proxy_replacement is on, but the datapath is loaded without services: {APPLY}"
            )
        if self._settings.enabled and not self._config.kube_proxy_replacement:
            problems.append(
                "the datapath is loaded with services, but nobody keeps its tables: set "
                f"kube_proxy_replacement in agent.yaml, or {APPLY} without services"
            )
        if self.controller is not None and self.controller.trouble():
            problems.append(f"services cannot be written: {self.controller.trouble()}")
        return problems + self.health_ports.problems()

    def name_of(self, number: int) -> str:
        """What a service number stands for, ``namespace/name:port``; empty when the service is gone."""
        if self.controller is None:
            return ""
        try:
            owner, port = self.controller.registry.service_of(number)
        except KeyError:
            return ""
        return f"{owner.name}:{port.name}" if port.name else str(owner.name)

    def checks(self) -> list[Check]:
        """The gate's questions about services; none where kube-proxy does the work."""
        if not self._config.kube_proxy_replacement:
            return []
        problems = self.problems()
        if self.controller is None or self._source is None or not self.controller.synced:
            source = self._source.detail if self._source is not None else "the agent is not ready"
            problems.append(f"services are not known completely yet ({source})")
        detail = f"{len(self.controller.registry.frontends())} frontends" if self.controller else ""
        return [Check("services", not problems, "; ".join(problems) or detail)]

    def listed(self) -> dict[str, Any]:
        """Every service, for the REST API."""
        controller = self.controller
        if controller is None:
            return {"enabled": self._config.kube_proxy_replacement, "services": []}
        with controller.guard:
            return {"enabled": True, **service_list(controller.registry, controller.problems())}

    def details(self, name: Name) -> dict[str, Any] | None:
        """One service, for the REST API; None when there is none of that name."""
        controller = self.controller
        if controller is None:
            return None
        with controller.guard:
            return service_details(controller.registry, name, controller.problems())

    def _socket_state(self) -> str:
        """``attached``, or why services are translated per packet alone."""
        try:
            known = self._datapath.place.known()
        except DatapathError as error:
            return str(error)
        if not known.config.services.enabled:
            return "the datapath is loaded without services"
        return known.sockets_reason or "attached"

    def status(self) -> dict[str, Any]:
        """The part ``services`` of the agent's status."""
        controller, source = self.controller, self._source
        if controller is None or source is None:
            return {"enabled": self._config.kube_proxy_replacement, "synced": False}
        with controller.guard:
            registry = controller.registry
            return {
                "enabled": True,
                "synced": controller.synced,
                "source": {"connected": source.connected, "detail": source.detail},
                "services": len(registry.service_names()),
                "frontends": len(registry.frontends()),
                "backends": sum(len(item.backends) for item in registry.lists().values()),
                "problems": len(controller.problems()),
                "socket": self._socket_state(),
                "changes": controller.counts.changes,
                "comparisons": controller.counts.comparisons,
                "first_sync_seconds": controller.counts.first_sync_seconds,
                "last_change_seconds": controller.counts.last_change_seconds,
            }
