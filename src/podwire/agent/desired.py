"""Work out what this node's kernel should hold. Pure: no I/O, no clock, no logging.

Keys and values are plain values; ``podwire.agent.kernel`` knows how they are written."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace

from podwire.agent.identity_ipcache import Ipcache4, add_identities
from podwire.agent.model import ClusterState, Endpoint, NodeInfo, Standing
from podwire.net.values import Route4
from podwire.policy.identity import HEALTH, HOST, KUBE_APISERVER, REMOTE_NODE, UNMANAGED, WORLD

__all__ = ["Desired", "Endpoint4", "Ipcache4", "changed_slots", "desired", "endpoint_sysctls"]


@dataclass(frozen=True, slots=True)
class Endpoint4:
    """Value of podwire_endpoints4: a local address."""

    ifindex: int
    slot: int
    mac: str
    host: bool = False
    """The node's own address."""
    identity: int = 0
    """Security identity; 0 = unknown."""
    policy: int = 0
    """Number of its policy map; 0 = none."""
    audit: bool = False
    """Its policy refuses nothing, but says what it would."""


@dataclass(frozen=True, slots=True)
class Desired:
    """Contents of every table, and what could not be satisfied."""

    endpoints4: dict[str, Endpoint4] = field(default_factory=dict)
    ipcache4: dict[str, Ipcache4] = field(default_factory=dict)
    routes: dict[str, Route4] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    masquerade4: dict[str, str] = field(default_factory=dict)
    """Interface index -> address that masqueraded packets leave it with; the node's own for the others."""
    problems: tuple[str, ...] = ()
    """Sentences about input that contradicts itself; shown in the agent's status."""


def desired(state: ClusterState) -> Desired:
    """The contents of every table for ``state``.

    Later entries never override more specific facts: a node's own address wins over the prefixes it lies in
    because the ipcache matches the longest prefix."""
    want = Desired()
    problems: list[str] = []
    for cidr in state.cluster_cidrs:
        want.ipcache4[cidr] = Ipcache4(UNMANAGED, cluster=True)
    for cidr in state.non_masquerade_cidrs:
        want.ipcache4.setdefault(cidr, Ipcache4(WORLD, cluster=True))
    for cidr in state.service_cidrs:
        want.ipcache4[cidr] = Ipcache4(WORLD, cluster=True, service=True)
    _add_remote_nodes(state, want, problems)
    _add_own_node(state, want, problems)
    for endpoint in state.endpoints:
        want.endpoints4[endpoint.address] = _endpoint4(endpoint, state)
        want.routes[f"{endpoint.address}/32"] = Route4(endpoint.host_ifindex, source=state.node_ip)
        want.sysctls.update(endpoint_sysctls(endpoint.host_ifname))
    add_identities(state, want.ipcache4)
    want.sysctls.update(NODE_SYSCTLS)
    # An address of the podCIDR is a pod's, whatever device carries it.
    for ifindex, address in state.masquerade_addresses.items():
        if address in want.endpoints4 and want.endpoints4[address].host:
            want.masquerade4[str(ifindex)] = address
    return replace(want, problems=tuple(problems))


NODE_SYSCTLS = {"net/ipv4/conf/all/forwarding": "1"}
NO_MAC = "00:00:00:00:00:00"


def endpoint_sysctls(host_ifname: str) -> dict[str, str]:
    """Settings of a pod's host-side device.

    Reverse-path filtering is the datapath's job there (a pod may only send from its own address), and the
    kernel's would drop what a redirect delivers by another way. The host speaks no IPv6 there: the datapath
    would drop it."""
    return {
        f"net/ipv4/conf/{host_ifname}/rp_filter": "0",
        f"net/ipv4/conf/{host_ifname}/send_redirects": "0",
        f"net/ipv4/conf/{host_ifname}/forwarding": "1",
        f"net/ipv6/conf/{host_ifname}/disable_ipv6": "1",
    }


def _endpoint4(endpoint: Endpoint, state: ClusterState) -> Endpoint4:
    standing = state.standings.get(endpoint.key, Standing(HEALTH if endpoint.health else endpoint.identity))
    return Endpoint4(
        endpoint.host_ifindex,
        endpoint.slot,
        endpoint.mac,
        identity=standing.identity,
        policy=standing.policy.number,
        audit=standing.policy.audit,
    )


def changed_slots(before: Endpoint4 | None, after: Endpoint4 | None) -> set[int]:
    """Slots whose revision must move because a local address changed."""
    return {value.slot for value in (before, after) if value is not None}


def _add_own_node(state: ClusterState, want: Desired, problems: list[str]) -> None:
    own = next((node for node in state.nodes if node.name == state.node_name), None)
    network = ipaddress.IPv4Network(own.pod_cidr) if own and own.pod_cidr else None
    for address in state.host_addresses:
        # A bridge of the network that was here before may still carry an address of the podCIDR: it is a
        # pod's now.
        if network is None or ipaddress.IPv4Address(address) not in network:
            want.endpoints4[address] = Endpoint4(0, 0, NO_MAC, host=True, identity=HOST)
            want.ipcache4[f"{address}/32"] = Ipcache4(HOST, cluster=True, node=True)
    if network is None:
        return
    want.ipcache4[str(network)] = Ipcache4(UNMANAGED, cluster=True, local=True)
    strays = [e for e in state.endpoints if ipaddress.IPv4Address(e.address) not in network]
    if strays:
        problems.append(
            f"{len(strays)} endpoints have addresses outside podCIDR {network}, which has changed: "
            "recreate their pods"
        )
    if not any(network.subnet_of(ipaddress.IPv4Network(cidr)) for cidr in state.cluster_cidrs):
        problems.append(
            f"podCIDR {network} lies outside the cluster CIDRs ({', '.join(state.cluster_cidrs) or 'none'})"
        )


def _add_remote_nodes(state: ClusterState, want: Desired, problems: list[str]) -> None:
    claimed: list[tuple[ipaddress.IPv4Network, str]] = [
        (ipaddress.IPv4Network(node.pod_cidr), node.name)
        for node in state.nodes
        if node.name == state.node_name and node.pod_cidr
    ]
    own = set(state.host_addresses)
    for node in sorted(state.nodes, key=lambda node: node.name):
        if node.name == state.node_name:
            continue
        for address in node.addresses:
            if address not in own:
                identity = KUBE_APISERVER if address in state.api_servers else REMOTE_NODE
                want.ipcache4[f"{address}/32"] = Ipcache4(identity, cluster=True, node=True)
        _add_pod_cidr(state, node, want, claimed, problems)


def _add_pod_cidr(
    state: ClusterState,
    node: NodeInfo,
    want: Desired,
    claimed: list[tuple[ipaddress.IPv4Network, str]],
    problems: list[str],
) -> None:
    if not node.pod_cidr or not node.addresses:
        return
    network = ipaddress.IPv4Network(node.pod_cidr)
    for other, owner in claimed:
        if network.overlaps(other):
            problems.append(
                f"podCIDR {network} of node {node.name} overlaps {other} of node {owner}: ignored"
            )
            return
    next_hop = node.addresses[0]
    if next_hop in state.host_addresses:
        problems.append(
            f"node {node.name} has this node's address {next_hop}: its podCIDR {network} is ignored"
        )
        return
    claimed.append((network, node.name))
    want.ipcache4[str(network)] = Ipcache4(UNMANAGED, next_hop=next_hop, cluster=True)
    if state.node_ifindexes:
        want.routes[str(network)] = Route4(state.node_ifindexes[0], gateway=next_hop, source=state.node_ip)


def local_endpoints(state: ClusterState) -> tuple[Endpoint, ...]:
    """Endpoints that are pods, without the node's health endpoint."""
    return tuple(endpoint for endpoint in state.endpoints if not endpoint.health)
