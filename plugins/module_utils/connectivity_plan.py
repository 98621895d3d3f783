# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Turn a table of expectations into probes: which pod sends to which address. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

ICMP = "ICMP"


class Objects:
    """The cluster's objects as far as a table needs them. ``pods`` gives those of a namespace, ``service``
    and ``node`` one object or None. Each is asked once.
    """

    def __init__(
        self,
        pods: Callable[[str], Sequence[Mapping[str, Any]]],
        service: Callable[[str, str], Mapping[str, Any] | None],
        node: Callable[[str], Mapping[str, Any] | None],
    ) -> None:
        self._ask = {"pods": pods, "service": service, "node": node}
        self._known: dict[tuple[str, ...], Any] = {}

    def pods(self, namespace: str) -> Sequence[Mapping[str, Any]]:
        return list(self._get("pods", namespace))

    def service(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return dict(found) if (found := self._get("service", namespace, name)) else None

    def node(self, name: str) -> Mapping[str, Any] | None:
        return dict(found) if (found := self._get("node", name)) else None

    def _get(self, what: str, *words: str) -> Any:
        key = (what, *words)
        if key not in self._known:
            self._known[key] = self._ask[what](*words)
        return self._known[key]


@dataclass(frozen=True)
class Place:
    """One end of a probe. ``address`` is what a destination is dialled by; ``node`` where a source is."""

    name: str
    address: str = ""
    node: str = ""
    namespace: str = ""
    pod: str = ""
    """Empty for what is no pod."""
    own_network: bool = True
    """Whether a pod has a network namespace of its own."""


@dataclass(frozen=True)
class Probe:
    """One thing to try, and what is expected of it."""

    name: str
    source: Place
    target: Place
    port: int
    protocol: str
    expect: str
    payload: str = ""
    command: tuple[str, ...] = ()
    container: str = ""
    statuses: Mapping[int, str] = field(default_factory=dict, hash=False)
    """What exit statuses of the command mean: ``denied`` or ``refused``."""
    number: int = 0
    """Place in the table."""

    def to_dict(self) -> dict[str, Any]:
        """As data, which another node can make a probe of again. JSON's keys are text."""
        return {**asdict(self), "statuses": {str(status): what for status, what in self.statuses.items()}}


def from_dict(value: Mapping[str, Any]) -> Probe:
    """What ``to_dict`` gave. Raises PodwireError for anything else."""
    try:
        return Probe(
            **{
                **value,
                "source": Place(**value["source"]),
                "target": Place(**value["target"]),
                "command": tuple(value["command"]),
                "statuses": {int(status): what for status, what in value["statuses"].items()},
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PodwireError(
            f"this is no probe that a plan has made: {value!r} ({error})", "Give what plan returned."
        ) from error


def probes(expectations: Sequence[Mapping[str, Any]], objects: Objects) -> list[Probe]:
    """Every probe of a table, on whatever node. Raises PodwireError naming each row that means nothing."""
    found: list[Probe] = []
    wrong: list[str] = []
    for number, row in enumerate(expectations, 1):
        try:
            found += _row(row, objects)
        except PodwireError as error:
            wrong.append(f"row {number}{' (' + row['name'] + ')' if row.get('name') else ''}: {error}")
    if wrong:
        raise PodwireError("; ".join(wrong), "A row that tests nothing would pass whatever the policies say.")
    return [replace(probe, number=number) for number, probe in enumerate(found)]


def _row(row: Mapping[str, Any], objects: Objects) -> Iterator[Probe]:
    command = tuple(row.get("command") or ())
    protocol = row["protocol"]
    sources, targets = list(_sources(row["from"], objects)), list(_targets(row, objects))
    for source in sources:
        for target, port in targets:
            if source.pod and (source.namespace, source.pod) == (target.namespace, target.pod):
                continue  # what a selector matches on both sides; to itself everything passes
            if command and not source.pod:
                raise PodwireError("a command runs in a pod, and from is none")
            yield Probe(
                name=row.get("name") or "",
                source=source,
                target=target,
                port=port,
                protocol=protocol,
                expect=row["expect"],
                payload=row.get("payload") or "",
                command=command,
                container=row.get("container") or "",
                statuses={
                    **dict.fromkeys(row.get("denied_status") or (), "denied"),
                    **dict.fromkeys(row.get("refused_status") or (), "refused"),
                },
            )


def _sources(where: Mapping[str, Any], objects: Objects) -> Iterator[Place]:
    if where.get("node"):
        yield _node(where["node"], objects)
        return
    for pod in _pods(where, objects):
        yield _place(pod)


def _targets(row: Mapping[str, Any], objects: Objects) -> Iterator[tuple[Place, int]]:
    where, port = row["to"], int(row.get("port") or 0)
    if where.get("service"):
        namespace, name = where["namespace"], where["service"]
        service = objects.service(namespace, name)
        if service is None:
            raise PodwireError(f"there is no service {namespace}/{name}")
        address = service["spec"].get("clusterIP") or ""
        if address in ("", "None"):
            raise PodwireError(f"service {namespace}/{name} has no address of its own: name its pods")
        yield Place(f"service {namespace}/{name}", address), _service_port(row, service)
        return
    if row["protocol"] != ICMP and not port and not row.get("command"):
        raise PodwireError(f"{row['protocol']} needs a port")
    if where.get("address"):
        yield Place(where["address"], where["address"]), port
    elif where.get("node"):
        yield _node(where["node"], objects), port
    else:
        for pod in _pods(where, objects):
            yield _place(pod), port


def _service_port(row: Mapping[str, Any], service: Mapping[str, Any]) -> int:
    if row["protocol"] == ICMP:
        raise PodwireError("a service has no answer to ICMP: name its pods, or a port")
    ports = [
        port for port in service["spec"].get("ports") or [] if port.get("protocol", "TCP") == row["protocol"]
    ]
    known = [int(port["port"]) for port in ports]
    wanted = int(row.get("port") or 0)
    if wanted in known:
        return wanted
    if not wanted and len(known) == 1:
        return known[0]
    shown = ", ".join(map(str, known)) or "none"
    asked = f"no port {wanted}" if wanted else "more or less than one port, so that one must be named"
    raise PodwireError(f"the service has {asked}; {row['protocol']} ports: {shown}")


def _pods(where: Mapping[str, Any], objects: Objects) -> list[Mapping[str, Any]]:
    namespace = where["namespace"]
    name, selector, deployment = where.get("pod"), where.get("selector"), where.get("deployment")
    found = [
        pod
        for pod in objects.pods(namespace)
        if (name is None or pod["metadata"]["name"] == name)
        and (selector is None or selector.items() <= (pod["metadata"].get("labels") or {}).items())
        and (deployment is None or _of_deployment(pod, deployment))
    ]
    running = [pod for pod in found if _runs(pod)]
    if running:
        return running
    meant = name or (f"of deployment {deployment}" if deployment else _shown(selector or {}))
    if not found:
        raise PodwireError(f"there is no pod {meant} in namespace {namespace}")
    states = ", ".join(f"{pod['metadata']['name']} is {_state(pod)}" for pod in found[:5])
    raise PodwireError(f"no pod {meant} runs in namespace {namespace}: {states}")


def _of_deployment(pod: Mapping[str, Any], deployment: str) -> bool:
    """A deployment's pods belong to one of its replica sets, whose name is its own and a hash."""
    return any(
        owner.get("kind") == "ReplicaSet" and owner["name"].rpartition("-")[0] == deployment
        for owner in pod["metadata"].get("ownerReferences") or []
    )


def _shown(selector: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in selector.items()) or "at all"


def _runs(pod: Mapping[str, Any]) -> bool:
    status = pod.get("status") or {}
    going = pod["metadata"].get("deletionTimestamp")
    return bool(status.get("phase") == "Running" and status.get("podIP") and not going)


def _state(pod: Mapping[str, Any]) -> str:
    return (
        "being deleted" if pod["metadata"].get("deletionTimestamp") else pod["status"].get("phase", "unknown")
    )


def _place(pod: Mapping[str, Any]) -> Place:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    return Place(
        f"{namespace}/{name}",
        pod["status"]["podIP"],
        pod["spec"].get("nodeName") or "",
        namespace,
        name,
        not pod["spec"].get("hostNetwork"),
    )


def _node(name: str, objects: Objects) -> Place:
    found = objects.node(name)
    if found is None:
        raise PodwireError(f"there is no node {name}")
    addresses = {item["type"]: item["address"] for item in found["status"].get("addresses") or []}
    if "InternalIP" not in addresses:
        raise PodwireError(f"node {name} has no address in the API")
    return Place(f"node {name}", addresses["InternalIP"], name, own_network=False)
