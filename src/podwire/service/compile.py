"""What one service means on this node: its frontends, and which endpoints are behind them. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from podwire.service.model import (
    ANY_ADDRESS,
    Backend,
    Endpoint,
    Flags,
    FrontendKey,
    HealthCheck,
    HostPort,
    Name,
    NodeContext,
    PortName,
    Problem,
    Protocol,
    Service,
    ServicePort,
    Slice,
    State,
)

EXTERNAL = Flags.NODE_PORT | Flags.EXTERNAL_IP | Flags.LOAD_BALANCER
_NONE = Flags(0)
_DRAINING = State.SERVING | State.TERMINATING


@dataclass(frozen=True, slots=True)
class CompiledPort:
    """One service port (or host port)."""

    name: PortName
    frontends: dict[FrontendKey, Flags]
    cluster: tuple[Backend, ...]
    """Backends wherever they are, sorted."""
    local: tuple[Backend, ...] | None = None
    """Backends on this node, sorted; None when no policy asks for them."""
    affinity_seconds: int = 0
    source_ranges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Compiled:
    """Everything the datapath's tables need of one service."""

    ports: tuple[CompiledPort, ...] = ()
    health_check_port: int = 0
    health_check: HealthCheck | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint as one service port sees it."""

    backend: Backend
    endpoint: Endpoint


def compile_service(service: Service, slices: Iterable[Slice], context: NodeContext) -> Compiled:
    """What ``service`` with these slices means on the node of ``context``."""
    if service.unhandled:
        return Compiled(problems=service.problems)
    slices = tuple(slices)
    problems = [*service.problems, *(problem for item in slices for problem in item.problems)]
    problems += _slice_problems(service, slices)
    problems += _address_problems(service, context)
    ports = []
    taken: set[FrontendKey] = set()
    for port in service.ports:
        frontends = _frontends(service, port, context, problems)
        _drop_taken(service, port, frontends, taken, problems)
        everything = members(service, port, slices)
        needs_local = service.internal_local or service.external_local
        ports.append(
            CompiledPort(
                port.name,
                frontends,
                tuple(sorted(member.backend for member in usable(everything, context))),
                tuple(sorted(member.backend for member in usable_here(everything, context)))
                if needs_local
                else None,
                service.affinity_seconds,
                (service.source_ranges or ()) if _any(frontends, Flags.SOURCE_RANGES) else (),
            )
        )
    check = None
    if service.health_check_port:
        check = HealthCheck(service.name, _local_ready(service, slices, context))
    return Compiled(tuple(ports), service.health_check_port, check, tuple(problems))


def compile_host_ports(pod: Name, ports: Iterable[HostPort]) -> Compiled:
    """What a pod's host ports mean: each is a service of one backend on this node's own addresses."""
    compiled: dict[PortName, CompiledPort] = {}
    problems: list[Problem] = []
    for item in ports:
        if not item.port:
            message = "a hostPort is 0: ignored; give it a number from 1 to 65535"
            problems.append(Problem(pod.namespace, pod.name, "InvalidPort", message, kind="Pod"))
            continue
        address = item.host_address or ANY_ADDRESS
        name = PortName(f"hostPort {item.host_address or '*'}:{item.port}", item.protocol)
        key = FrontendKey(address, item.port, item.protocol)
        compiled[name] = CompiledPort(name, {key: Flags.HOST_PORT}, (item.backend,))
    return Compiled(tuple(compiled.values()), problems=tuple(problems))


# -- endpoints -------------------------------------------------------------------------------------


def members(service: Service, port: ServicePort, slices: Iterable[Slice]) -> tuple[Member, ...]:
    """The endpoints that have this port, each address and number once.

    While slices are rewritten an endpoint may be in two of them: the better condition counts."""
    found: dict[Backend, Endpoint] = {}
    for item in slices:
        for slice_port in item.ports:
            if slice_port.name != port.name:
                continue
            for endpoint in item.endpoints:
                if service.publish_not_ready and not endpoint.state & State.READY:
                    endpoint = endpoint._replace(state=endpoint.state | State.READY)  # noqa: PLW2901
                backend = Backend(endpoint.address, slice_port.port)
                other = found.get(backend)
                if other is None or _preference(endpoint) > _preference(other):
                    found[backend] = endpoint
    return tuple(Member(backend, endpoint) for backend, endpoint in found.items())


def usable(everything: Iterable[Member], context: NodeContext) -> list[Member]:
    """Who gets new connections: the ready, those near by as far as the slices say; else those that still
    serve while they terminate."""
    everything = tuple(everything)
    ready = [member for member in everything if member.endpoint.state & State.READY]
    return _near(ready, context) if ready else _draining(everything)


def usable_here(everything: Iterable[Member], context: NodeContext) -> list[Member]:
    """The same among the endpoints of this node."""
    here = [member for member in everything if is_local(member.endpoint, context)]
    return [member for member in here if member.endpoint.state & State.READY] or _draining(here)


def is_local(endpoint: Endpoint, context: NodeContext) -> bool:
    return bool(endpoint.node) and endpoint.node in (context.node_name, context.hostname)


def _draining(everything: Iterable[Member]) -> list[Member]:
    return [member for member in everything if member.endpoint.state & _DRAINING == _DRAINING]


def _near(ready: list[Member], context: NodeContext) -> list[Member]:
    """Hints count only when every endpoint has one and one of them is for here: else nothing may be lost."""
    if all(member.endpoint.node_hints for member in ready):
        near = [member for member in ready if context.node_name in member.endpoint.node_hints]
        if near:
            return near
    if context.zone and all(member.endpoint.zone_hints for member in ready):
        near = [member for member in ready if context.zone in member.endpoint.zone_hints]
        if near:
            return near
    return ready


def _preference(endpoint: Endpoint) -> tuple[int, str, tuple[str, ...], tuple[str, ...]]:
    """The condition; the rest makes the choice independent of the slices' order."""
    ready = bool(endpoint.state & State.READY)
    draining = endpoint.state & _DRAINING == _DRAINING
    return ready * 2 or int(draining), endpoint.node, endpoint.zone_hints, endpoint.node_hints


def _local_ready(service: Service, slices: Iterable[Slice], context: NodeContext) -> int:
    return len(
        {
            endpoint.address
            for item in slices
            for endpoint in item.endpoints
            if is_local(endpoint, context) and (service.publish_not_ready or endpoint.state & State.READY)
        }
    )


# -- frontends -------------------------------------------------------------------------------------


def _frontends(
    service: Service, port: ServicePort, context: NodeContext, problems: list[Problem]
) -> dict[FrontendKey, Flags]:
    outside = Flags.EXTERNAL_LOCAL if service.external_local else _NONE
    outside |= Flags.MAGLEV if context.maglev else _NONE
    found: dict[FrontendKey, Flags] = {}

    def add(address: str, number: int, flags: Flags) -> None:
        key = FrontendKey(address, number, port.name.protocol)
        found[key] = found.get(key, _NONE) | flags

    inside = Flags.INTERNAL_LOCAL if service.internal_local else _NONE
    add(service.cluster_address, port.port, Flags.CLUSTER_IP | inside)
    for address in service.external_addresses:
        if address not in context.node_addresses:
            add(address, port.port, Flags.EXTERNAL_IP | outside)
    ranges = _NONE if service.source_ranges is None else Flags.SOURCE_RANGES
    for address in service.load_balancer_addresses:
        if address not in context.node_addresses:
            add(address, port.port, Flags.LOAD_BALANCER | outside | ranges)
    if not port.node_port:
        return found
    if context.node_port_min <= port.node_port <= context.node_port_max:
        add(ANY_ADDRESS, port.node_port, Flags.NODE_PORT | outside)
    else:
        _problem(
            problems, service, "NodePortOutOfRange",
            f"node port {port.node_port} lies outside {context.node_port_min}-{context.node_port_max}, "
            "the range podwire was told: it is not served; set podwire_node_port_range to the API "
            "server's --service-node-port-range",
        )  # fmt: skip
    return found


def _drop_taken(
    service: Service,
    port: ServicePort,
    frontends: dict[FrontendKey, Flags],
    taken: set[FrontendKey],
    problems: list[Problem],
) -> None:
    """One frontend leads to one port of the service."""
    for key in taken.intersection(frontends):
        del frontends[key]
        _problem(
            problems, service, "DuplicatePort",
            f"port {port.name.name!r} and an earlier port of the service both want {key}: the earlier "
            "one has it; give them different numbers",
        )  # fmt: skip
    taken.update(frontends)


def _any(frontends: dict[FrontendKey, Flags], flag: Flags) -> bool:
    return any(flags & flag for flags in frontends.values())


# -- problems --------------------------------------------------------------------------------------


def _problem(problems: list[Problem], service: Service, reason: str, message: str) -> None:
    problems.append(Problem(service.name.namespace, service.name.name, reason, message))


def _address_problems(service: Service, context: NodeContext) -> list[Problem]:
    problems: list[Problem] = []
    for field, addresses in (
        ("external IP", service.external_addresses),
        ("load balancer address", service.load_balancer_addresses),
    ):
        for address in addresses:
            if address in context.node_addresses:
                _problem(
                    problems, service, "NodeAddress",
                    f"{field} {address} is the address of a node: ignored, because it would take the node's "
                    "own ports away; use a node port, or an address that no node has",
                )  # fmt: skip
    if context.service_cidrs and not any(
        IPv4Address(service.cluster_address) in network for network in _networks(context.service_cidrs)
    ):
        _problem(
            problems, service, "ClusterIPOutOfRange",
            f"ClusterIP {service.cluster_address} lies outside {', '.join(context.service_cidrs)}, the range "
            "podwire was told: its unused ports are not refused; set podwire_service_cidr to the API "
            "server's --service-cluster-ip-range",
        )  # fmt: skip
    return problems


@functools.lru_cache(maxsize=8)
def _networks(cidrs: tuple[str, ...]) -> tuple[IPv4Network, ...]:
    """The same few for every service."""
    return tuple(map(IPv4Network, cidrs))


def _slice_problems(service: Service, slices: tuple[Slice, ...]) -> list[Problem]:
    """Endpoints that no port of the service leads to: a mistake that otherwise looks like a dead service."""
    problems: list[Problem] = []
    filled = [item for item in slices if item.endpoints]
    bare = sorted(item.name.name for item in filled if not item.ports)
    if bare:
        _problem(
            problems, service, "SliceWithoutPorts",
            f"EndpointSlice {', '.join(bare[:3])} has endpoints but no usable port, so nothing is sent to "
            "them; a targetPort given by name must be the name of a container port of the pods, and slices "
            "made by hand need ports",
        )  # fmt: skip
    offered = {port.name for item in filled for port in item.ports}
    for port in service.ports:
        if offered and port.name not in offered:
            _problem(
                problems, service, "PortWithoutEndpoints",
                f"port {port.name.name!r} ({port.name.protocol.name}) has no endpoints: the service's "
                f"slices name {_listed(offered)}; use the same name and protocol in both",
            )  # fmt: skip
    return problems


def _listed(names: Iterable[PortName]) -> str:
    return ", ".join(f"{name.name!r} ({Protocol(name.protocol).name})" for name in sorted(names))
