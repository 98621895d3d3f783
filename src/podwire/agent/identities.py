"""Identities on this node: the agent's part of it, put together. ``identity_view`` says what policies get of
it."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

from podwire.agent.cluster import Cluster
from podwire.agent.config import AgentConfig
from podwire.agent.endpoints import Endpoints, PolicyHooks
from podwire.agent.identity_allocator import Allocator
from podwire.agent.identity_api import IdentityApi
from podwire.agent.identity_controller import Hooks, IdentityController
from podwire.agent.identity_objects import IdentityObject
from podwire.agent.identity_source import KubernetesIdentities
from podwire.agent.identity_view import IdentityView, PolicyKeeper
from podwire.agent.model import OPEN, ClusterState, PolicyAssignment
from podwire.agent.node_endpoints import Publisher
from podwire.agent.state import StateError, StateStore
from podwire.kube.reflector import Connection
from podwire.policy.identity import UNKNOWN, UNMANAGED
from podwire.policy.model import Enforcement, Labels

log = logging.getLogger(__name__)

ABSENT = 30.0
"""Seconds that podwire's objects must be missing in the API before policies are given up for it: an API
server that starts does not know of its custom resources at first."""
_TABLES = ("endpoints4", "ipcache4")
NO_FIELD = (
    "the datapath is loaded without policies, nothing is enforced: load it again with the role "
    "podwire.ebpf.datapath, or `podwire datapath apply`"
)


class Identities:
    """Everything about identities on this node. ``begin`` once endpoints are restored; until then nothing is
    numbered, and endpoints keep the policies that they have."""

    def __init__(
        self, config: AgentConfig, store: StateStore, connection: Connection, keeper: PolicyKeeper | None
    ) -> None:
        """``keeper``: who knows policies; None where nobody does."""
        self._config = config
        self._store = store
        self._keeper = keeper
        self._enforcing = (
            keeper is not None
            and config.node_source == "kubernetes"
            and config.policy.enforcement is not Enforcement.NEVER
        )
        self._datapath_judges = True
        self._missing: dict[str, tuple[float, float]] = {}
        self._endpoints: Endpoints | None = None
        self._given_up = ""
        self.view = IdentityView()
        self._allocator = Allocator(IdentityApi(connection), self._take_identity)
        self._publisher = Publisher(connection, config.node_name)
        hooks = Hooks(
            want=self._allocator.set_wanted,
            collect=self._allocator.collect,
            publish=self._publisher.set_endpoints,
            seen=self._publisher.seen,
            remember=self._remember,
            current=lambda: self._source.connected,
            judging=lambda: self.judging,
        )
        self._controller = IdentityController(
            config.node_name, self.view, hooks, store.load_local_identities()
        )
        self._source = KubernetesIdentities(
            connection, config.node_name, self._controller, self._take_absence
        )
        self._running = False

    @property
    def enabled(self) -> bool:
        """Without a Kubernetes API there are no labels."""
        return self._config.node_source == "kubernetes"

    @property
    def judging(self) -> bool:
        """Are policies enforced, as far as they are known?"""
        return self._enforcing and self._datapath_judges and not self._absent

    @property
    def _delivered(self) -> bool:
        delivered = self._controller.delivered
        return delivered.identities and delivered.nodes

    @property
    def _absent(self) -> str:
        """Why there will be no identities; empty when there are, or may be."""
        return "" if self._delivered else self._given_up

    # -- life --------------------------------------------------------------------------------------

    def begin(self, cluster: Cluster, endpoints: Endpoints) -> None:
        """Follow the API from now on. Does not block."""
        self._endpoints = endpoints
        self.refresh(cluster)
        if not self.enabled or self._running:
            return
        self._running = True
        self._controller.start(self)
        self._allocator.start()
        self._publisher.start()
        self._source.start()

    def stop(self) -> None:
        """End the work; blocks until the round that is at work is over."""
        if not self._running:
            return
        self._source.stop()
        self._allocator.stop()
        self._publisher.stop()
        self._controller.stop()

    def refresh(self, cluster: Cluster) -> None:
        """Take what is known of the nodes now."""
        if self.enabled:
            self._controller.take_nodes(cluster.nodes, cluster.addresses())

    def set_datapath(self, *, judges: bool) -> None:
        """Say whether the loaded programs know of policies."""
        if judges != self._datapath_judges:
            self._datapath_judges = judges
            self._controller.sync_soon()

    # -- for endpoints -----------------------------------------------------------------------------

    def hooks(self) -> PolicyHooks:
        return PolicyHooks(self._assign, self._controller.take_local, self._config.policy_wait)

    def _assign(self, key: str, identity: int) -> PolicyAssignment | None:
        if not self.judging:
            return OPEN
        if identity in (UNKNOWN, UNMANAGED):
            return None
        return self._keeper.assignment(key, identity) if self._keeper is not None else OPEN

    def complete(self, state: ClusterState) -> ClusterState:
        """Add what is known of addresses elsewhere."""
        if not self.enabled:
            return state
        known = self._controller.known
        remote, cidrs = known.remote, known.cidrs
        if not self.judging:
            # No one will say what is missing, and nobody is judged by it.
            remote, cidrs = remote or ({} if self._absent else None), cidrs or {}
        return replace(state, remote=remote, cidrs=cidrs, api_servers=known.api_servers)

    # -- for the controller ------------------------------------------------------------------------

    def set_identities(self, identities: Mapping[str, tuple[int, Labels]]) -> None:
        if self._endpoints is not None:
            self._endpoints.set_identities(identities)

    def sync(self) -> None:
        if self._endpoints is not None:
            self._endpoints.sync()

    # -- for policies ------------------------------------------------------------------------------

    def number_cidrs(self, prefixes: Collection[IPv4Network]) -> Mapping[IPv4Network, int]:
        """Give prefixes identities; addresses are not known by them yet. 0.0.0.0/0 is the world."""
        return self._controller.number_cidrs(prefixes)

    def set_cidrs(self, prefixes: Collection[IPv4Network]) -> None:
        """Have addresses of exactly these prefixes known by their identities, with the next write."""
        self._controller.set_cidrs(prefixes)

    def apply_policies(self) -> None:
        """Write assignments and identities of addresses into the kernel. Blocks.

        Raises DatapathError, BpfError or OSError when not everything could be written."""
        if self._endpoints is None:
            return
        report = self._endpoints.sync()
        failed = [reason for (table, _), reason in report.failures.items() if table in _TABLES]
        if failed:
            raise OSError(f"{len(failed)} entries could not be written, such as: {failed[0]}")

    def set_status(self, observed: Mapping[str, str], revision: int, problems: Sequence[str]) -> None:
        """Publish what this node enforces."""
        self._publisher.set_status(observed, revision, problems)

    # -- what sources and the allocator tell -------------------------------------------------------

    def _take_identity(self, item: IdentityObject) -> None:
        self._controller.take_identity(item)

    def _take_absence(self, reason: str) -> None:
        if self._delivered:
            return  # what was known stays: an API that lost its definitions is no reason to open everything
        now = time.monotonic()
        since, last = self._missing.get(reason, (now, now))
        since = since if now - last < 2 * ABSENT else now  # the API was away in between
        self._missing[reason] = since, now
        if now - since >= ABSENT and not self._given_up:
            log.error("%s: policies are not enforced", reason)
            self._given_up = reason
            self._controller.sync_soon()

    def _remember(self, cidrs: Mapping[IPv4Network, int], api_servers: frozenset[str]) -> None:
        try:
            self._store.save_local_identities(cidrs, api_servers)
        except StateError as error:
            log.error("numbers of prefixes are not remembered across a restart: %s", error)

    # -- questions ---------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What keeps identities from being known, or policies from being enforced, as sentences."""
        if not self._running:
            return []
        problems = []
        if self._absent:
            problems.append(
                f"{self._absent}: policies are not enforced; apply podwire's definitions of custom "
                "resources with the role podwire.ebpf.agent"
            )
        if self._enforcing and not self._datapath_judges:
            problems.append(NO_FIELD)
        reasons = {
            "identities cannot be made": self._allocator.trouble,
            "endpoints of this node are not published": self._publisher.trouble,
            "identities cannot be written": self._controller.trouble,
        }
        return problems + [f"{what}: {reason}" for what, reason in reasons.items() if reason]

    def status(self) -> dict[str, Any]:
        """The part ``identities`` of the agent's status."""
        if not self._running:
            return {"enabled": self.enabled, "synced": False}
        world = self.view.world
        return {
            "enabled": True,
            "synced": world.complete,
            "source": {"connected": self._source.connected, "detail": self._source.detail},
            "identities": len(world.identities),
            "remote_endpoints": len(world.remote),
            "unidentified": sum(1 for endpoint in world.local.values() if not endpoint.identity),
        }
