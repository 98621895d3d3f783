"""Services in eBPF, in place of kube-proxy: the agent's part of it, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from podwire.agent.cluster import Cluster
from podwire.agent.config import AgentConfig
from podwire.agent.model import Endpoint
from podwire.agent.service_controller import Hooks, ServiceController
from podwire.agent.service_maglev import KernelMaglev
from podwire.agent.service_maps import ServiceMaps
from podwire.agent.service_source import FileServices, KubernetesServices, ServiceSource
from podwire.agent.service_tables import BACKENDS, SERVICES
from podwire.datapath import Datapath, ServiceSettings
from podwire.kube.reflector import Connection
from podwire.service.model import HostPort, Name
from podwire.service.registry import Limits

log = logging.getLogger(__name__)

APPLY = "load it again with the role podwire.ebpf.datapath, or `podwire datapath apply`"


class Services:
    """Everything about services on this node. Create it in the event loop, ``begin`` once the maps are
    there."""

    def __init__(self, config: AgentConfig, datapath: Datapath, connection: Connection) -> None:
        self._config = config
        self._datapath = datapath
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._settings = ServiceSettings()
        self._host_ports: dict[Name, tuple[HostPort, ...]] = {}
        self._source: ServiceSource | None = None
        self.controller: ServiceController | None = None

    # -- life --------------------------------------------------------------------------------------

    def begin(self, cluster: Cluster, endpoints: Iterable[Endpoint], settings: ServiceSettings) -> None:
        """Take over what an earlier agent left, and follow services from now on. Blocks.

        Raises DatapathError or BpfError."""
        self._settings = settings
        if not self._config.kube_proxy_replacement or self.controller is not None:
            return
        maps = ServiceMaps(self._datapath.map, KernelMaglev(self._datapath, settings.maglev_size))
        limits = Limits(
            frontends=self._datapath.map(SERVICES).info.max_entries,
            # Lists that are being replaced need room beside the new ones.
            backends=self._datapath.map(BACKENDS).info.max_entries * 3 // 4,
        )
        hooks = Hooks(lambda released: None, lambda checks: None, lambda problems: None)
        controller = ServiceController(maps, cluster.service_context(settings), limits, hooks)
        self.controller = controller
        self.refresh_host_ports(endpoints)
        controller.start()
        self._source = self._make_source(controller)
        self._source.start()

    def _make_source(self, controller: ServiceController) -> ServiceSource:
        if self._config.node_source == "file":
            return FileServices(self._config.service_file, controller)
        return KubernetesServices(self._connection, controller)

    def stop(self) -> None:
        """End the work. What is in the kernel goes on serving."""
        if self._source is not None:
            self._source.stop()
        if self.controller is not None:
            self.controller.stop()

    # -- input -------------------------------------------------------------------------------------

    def refresh(self, cluster: Cluster) -> None:
        """Take what is known of the nodes now."""
        if self.controller is not None:
            self.controller.set_context(cluster.service_context(self._settings))

    def refresh_host_ports(self, endpoints: Iterable[Endpoint]) -> None:
        """Take the host ports of the pods that are here now."""

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
        return problems

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
            }
