"""Take everything that podwire put on a node away again: the inverse of the agent's life. Blocking."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

from podwire.agent.config import AgentConfig
from podwire.agent.identity_objects import NODE_ENDPOINTS
from podwire.agent.model import HEALTH_ANNOTATION, HOST_PREFIX
from podwire.agent.policies import LAST_VALID
from podwire.datapath import HOST_MAC, Datapath
from podwire.kube.client import ApiError, KubeClient
from podwire.net import firewall, links, netns
from podwire.net.rcu import Grace
from podwire.net.routes import RouteTable

_NOT_FOUND = 404

log = logging.getLogger(__name__)


def cleanup(config: AgentConfig) -> list[str]:
    """Remove pods' links, routes, the health endpoint, programs, maps, the nftables table and the state.

    Goes on after a failure and returns what could not be removed, as sentences; empty when the node is
    clean."""
    failures: list[str] = []

    def step(name: str, function: Callable[[], Any]) -> None:
        try:
            function()
            log.info("removed: %s", name)
        except Exception as error:  # the rest must be tried all the same
            failures.append(f"{name}: {error}")

    step("health address of the Node", lambda: _forget_health_address(config))
    step("endpoints that others know", lambda: _withdraw_endpoints(config))
    step("interfaces of pods", _remove_links)
    step("routes", _remove_routes)
    step("health endpoint", lambda: netns.remove(config.health_netns))
    step("programs, maps and pins", Datapath(config.bpffs, config.run_dir, config.state_dir).remove)
    step("nftables table", _remove_table)
    step("expedited grace periods", Grace(config.grace_marker).restore)
    step("state", lambda: _remove_state(config))
    return failures


def _forget_health_address(config: AgentConfig) -> None:
    if config.node_source != "kubernetes" or not config.kubeconfig.exists():
        return
    try:
        KubeClient(config.kubeconfig).annotate_node(config.node_name, {HEALTH_ANNOTATION: None})
    except ApiError as error:
        # The node may have left the cluster already. Other nodes stop probing when its Node object goes.
        log.warning("annotation %s stays on the Node: %s", HEALTH_ANNOTATION, error)


def _withdraw_endpoints(config: AgentConfig) -> None:
    if config.node_source != "kubernetes" or not config.kubeconfig.exists():
        return
    try:
        KubeClient(config.kubeconfig).delete(f"{NODE_ENDPOINTS}/{config.node_name}")
    except ApiError as error:
        if error.status != _NOT_FOUND:
            log.warning("NodeEndpoints %s stays until its Node goes: %s", config.node_name, error)


def _remove_links() -> None:
    for link in links.list_links(HOST_PREFIX):
        if link.kind == "veth" and link.mac == HOST_MAC:
            links.delete_link(link.name)


def _remove_routes() -> None:
    table = RouteTable()
    problems = table.delete(list(table.read()))
    if problems:
        raise links.LinkError("; ".join(problems.values()))


def _remove_table() -> None:
    if shutil.which("nft"):
        firewall.remove()


def _remove_state(config: AgentConfig) -> None:
    for name in ("endpoints", "cni-queue"):
        shutil.rmtree(config.state_dir / name, ignore_errors=True)
    for name in ("nodes.json", "identities.json", LAST_VALID):
        (config.state_dir / name).unlink(missing_ok=True)
    for path in (config.agent_socket, config.cni_socket):
        path.unlink(missing_ok=True)
