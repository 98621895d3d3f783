"""What the REST API and the command show of services. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from podwire.service.claims import POD, SERVICE, Owner
from podwire.service.compile import is_local, members
from podwire.service.model import (
    Backend,
    Endpoint,
    Flags,
    Frontend,
    FrontendKey,
    Name,
    PortName,
    Problem,
    Service,
    State,
)
from podwire.service.registry import Registry

_KINDS = {
    Flags.CLUSTER_IP: "ClusterIP",
    Flags.NODE_PORT: "NodePort",
    Flags.EXTERNAL_IP: "ExternalIP",
    Flags.LOAD_BALANCER: "LoadBalancer",
    Flags.HOST_PORT: "HostPort",
}
Json = dict[str, Any]


def service_list(registry: Registry, problems: Iterable[Problem] | None = None) -> Json:
    """Body of ``GET /v1/services``: every service, and every pod with host ports.

    ``problems`` are the registry's own unless others are given."""
    found = _by_owner(registry.problems() if problems is None else problems)
    return {"services": [_summary(registry, owner, found) for owner in registry.owners()]}


def service_details(registry: Registry, name: Name, problems: Iterable[Problem] | None = None) -> Json | None:
    """Body of ``GET /v1/services/NAMESPACE/NAME``, None when there is neither such a service nor a pod of
    that name with host ports."""
    found = _by_owner(registry.problems() if problems is None else problems)
    service = registry.service(name)
    if service is None:
        owner = Owner(POD, name)
        if name not in registry.host_port_pods():
            return None
        return {**_summary(registry, owner, found), "backends": _host_port_backends(registry, owner)}
    check = registry.health_checks().get(service.health_check_port)
    opened = check is not None and check.service == name
    return {
        **_summary(registry, Owner(SERVICE, name), found),
        "uid": service.uid,
        "created": service.created,
        "ports": [
            {
                "name": port.name.name,
                "protocol": port.name.protocol.name,
                "port": port.port,
                "node_port": port.node_port or None,
                "target_port": port.target or None,
            }
            for port in service.ports
        ],
        "internal_policy": _policy(service.internal_local),
        "external_policy": _policy(service.external_local),
        "affinity_seconds": service.affinity_seconds,
        "source_ranges": None if service.source_ranges is None else list(service.source_ranges),
        "health_check": {"port": service.health_check_port, "local_endpoints": check.local_endpoints}
        if check and opened
        else None,
        "publish_not_ready_addresses": service.publish_not_ready,
        "backends": _backends(registry, service),
    }


def _summary(registry: Registry, owner: Owner, problems: Mapping[Owner, list[Problem]]) -> Json:
    service = registry.service(owner.name) if owner.kind == SERVICE else None
    frontends = [_frontend(*found) for found in registry.frontends_of(owner)]
    return {
        "namespace": owner.name.namespace,
        "name": owner.name.name,
        "type": service.type if service else "HostPort",
        "note": service.unhandled if service else "",
        "frontends": sorted(
            frontends, key=lambda item: (_ORDER[item["kind"].split("+")[0]], item["port"], item["address"])
        ),
        "problems": [
            {"reason": problem.reason, "message": problem.message} for problem in problems.get(owner, ())
        ],
    }


_ORDER = {kind: number for number, kind in enumerate(_KINDS.values())}


def _frontend(port: PortName, key: FrontendKey, value: Frontend) -> Json:
    kinds = [text for flag, text in _KINDS.items() if value.flags & flag]
    outside = value.flags & ~(Flags.CLUSTER_IP | Flags.INTERNAL_LOCAL)
    local = Flags.EXTERNAL_LOCAL if outside else Flags.INTERNAL_LOCAL
    return {
        "kind": "+".join(kinds),
        "address": key.address,
        "port": key.port,
        "protocol": key.protocol.name,
        "port_name": port.name,
        "id": value.service,
        "backends": value.count,
        "external_backends": value.external_count if outside else None,
        "policy": _policy(bool(value.flags & local)),
        "maglev": bool(value.flags & Flags.MAGLEV),
    }


def _backends(registry: Registry, service: Service) -> list[Json]:
    """Every endpoint of the service, in use or not, and why."""
    if service.unhandled:
        return []
    owner = Owner(SERVICE, service.name)
    used = _used(registry, owner)
    slices = registry.slices_of(service.name)
    return [
        _backend(
            port.name, member.backend, member.backend in used.get(port.name, ()),
            node=member.endpoint.node or None,
            local=is_local(member.endpoint, registry.context),
            state=_state(member.endpoint),
        )
        for port in service.ports
        for member in sorted(members(service, port, slices), key=lambda member: member.backend)
    ]  # fmt: skip


def _host_port_backends(registry: Registry, owner: Owner) -> list[Json]:
    return [
        _backend(port, backend, True, node=registry.context.node_name, local=True, state="ready")
        for port, backends in _used(registry, owner).items()
        for backend in backends
    ]


def _backend(
    port: PortName, backend: Backend, in_use: bool, *, node: str | None, local: bool, state: str
) -> Json:
    return {
        "port_name": port.name,
        "protocol": port.protocol.name,
        "address": backend.address,
        "port": backend.port,
        "node": node,
        "local": local,
        "state": state,
        "in_use": in_use,
    }


def _used(registry: Registry, owner: Owner) -> dict[PortName, set[Backend]]:
    """Backends that some frontend gives new connections to."""
    lists = registry.lists()
    used: dict[PortName, set[Backend]] = {}
    for port, _, value in registry.frontends_of(owner):
        for number in (value.list, value.external_list):
            if number:
                used.setdefault(port, set()).update(lists[number].backends)
    return used


def _state(endpoint: Endpoint) -> str:
    if endpoint.state & State.READY:
        return "ready"
    if endpoint.state & State.TERMINATING:
        return "terminating" if endpoint.state & State.SERVING else "terminated"
    return "not ready"


def _policy(local: bool) -> str:
    return "Local" if local else "Cluster"


def _by_owner(problems: Iterable[Problem]) -> dict[Owner, list[Problem]]:
    found: dict[Owner, list[Problem]] = {}
    for problem in problems:
        found.setdefault(Owner(problem.kind, Name(problem.namespace, problem.name)), []).append(problem)
    return found
