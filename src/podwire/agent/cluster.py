"""What is known of the cluster and of this host, completed to the input of the desired state."""

from __future__ import annotations

import logging
import threading

from podwire.agent.config import AgentConfig
from podwire.agent.masquerade import masquerade_addresses
from podwire.agent.model import ClusterState, Endpoint, NodeInfo
from podwire.agent.state import StateError, StateStore
from podwire.datapath import ServiceSettings
from podwire.net import routes
from podwire.net.values import Address4, DefaultRoute4
from podwire.service.model import NodeContext

log = logging.getLogger(__name__)


class Cluster:
    """The last known nodes (kept on disk) and this host's addresses. Methods may be called from any
    thread."""

    def __init__(self, config: AgentConfig, store: StateStore, datapath_node_ip: str) -> None:
        self._config = config
        self._store = store
        self._guard = threading.Lock()
        self._nodes = store.load_nodes()
        self._host: tuple[Address4, ...] = ()
        self._routes: tuple[DefaultRoute4, ...] = ()
        self._fallback_ip = datapath_node_ip
        self._left_out = False

    @property
    def nodes(self) -> tuple[NodeInfo, ...]:
        with self._guard:
            return self._nodes

    @property
    def own(self) -> NodeInfo | None:
        """This node's own object; None while it is unknown."""
        return next((node for node in self.nodes if node.name == self._config.node_name), None)

    @property
    def node_ip(self) -> str:
        """This node's address towards its peers: configured, else what the datapath was loaded with."""
        return self._config.node_ip or self._fallback_ip

    def set_nodes(self, nodes: tuple[NodeInfo, ...]) -> bool:
        """Take what the source says; True when something changed.

        A list that lacks this node, once it was there, is not taken: the node was removed or this is another
        cluster, and neither must cut the pods that still run here."""
        with self._guard:
            known = {node.name for node in self._nodes}
            self._left_out = self._config.node_name not in {node.name for node in nodes}
            if nodes == self._nodes or (self._left_out and self._config.node_name in known):
                return False
            self._nodes = nodes
        try:
            self._store.save_nodes(nodes)
        except StateError as error:
            log.error("nodes are not remembered across a restart: %s", error)
        return True

    def refresh_host(self) -> None:
        """Look at this host's addresses and default routes again. Raises NetlinkError."""
        found, ways = tuple(routes.host_addresses()), tuple(routes.default_routes())
        with self._guard:
            self._host, self._routes = found, ways

    def node_ip_is_ours(self) -> bool:
        """False when the host does not have the address that its peers shall route through."""
        with self._guard:
            return any(known.address == self.node_ip for known in self._host)

    def addresses(self) -> list[str]:
        """The host's IPv4 addresses."""
        with self._guard:
            return [known.address for known in self._host]

    def is_node_device(self, index: int) -> bool:
        """Does the interface with this index carry one of the host's addresses?"""
        with self._guard:
            return any(known.ifindex == index for known in self._host)

    def problems(self) -> list[str]:
        """What is odd about the nodes, as sentences."""
        if not self._left_out:
            return []
        return [
            f"the cluster's list of nodes lacks {self._config.node_name}: the last known nodes stay in use"
        ]

    def _service_cidrs(self) -> tuple[str, ...]:
        """Ranges in which every address is a service's. With services in eBPF the external ones are looked up
        one by one: other addresses of such a range may be anybody's."""
        own = (self._config.service_cidr,) if self._config.service_cidr else ()
        return own if self._config.kube_proxy_replacement else (*own, *self._config.external_service_cidrs)

    def service_context(self, settings: ServiceSettings) -> NodeContext:
        """What the meaning of services depends on here."""
        with self._guard:
            nodes, host = self._nodes, self._host
        own = next((node for node in nodes if node.name == self._config.node_name), NodeInfo(""))
        addresses = frozenset(known.address for known in host)
        return NodeContext(
            self._config.node_name,
            addresses=addresses,
            node_addresses=addresses.union(*(node.addresses for node in nodes)),
            service_cidrs=(self._config.service_cidr,) if self._config.service_cidr else (),
            node_port_min=settings.node_port_min,
            node_port_max=settings.node_port_max,
            zone=own.zone,
            hostname=own.hostname,
            maglev=self._config.service_algorithm == "maglev",
        )

    def state_of(self, endpoints: tuple[Endpoint, ...]) -> ClusterState:
        with self._guard:
            nodes, host, ways = self._nodes, self._host, self._routes
        own = [known.ifindex for known in host if known.address == self.node_ip]
        others = [known.ifindex for known in host if known.ifindex not in own]
        return ClusterState(
            node_ip=self.node_ip,
            node_ifindexes=(*own, *others) if own else (),
            host_addresses=tuple(dict.fromkeys(known.address for known in host)),
            masquerade_addresses=masquerade_addresses(host, ways, self.node_ip),
            node_name=self._config.node_name,
            cluster_cidrs=self._config.cluster_cidrs,
            service_cidrs=self._service_cidrs(),
            non_masquerade_cidrs=self._config.non_masquerade_cidrs,
            nodes=nodes,
            endpoints=endpoints,
        )
