"""Names of a cluster and what they stand for. Pure: objects of the API in, records out.

Follows Kubernetes' DNS-based service discovery, version 1.1.0: services (cluster IP, headless, external
name), their ports (SRV), the pods behind headless ones, pods by their address, and the way back (PTR).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "1.1.0"
# An external name may be another service's, and that one again; two of them may name each other.
MAX_ALIASES = 8

Object = Mapping[str, Any]
Key = tuple[str, str]


@dataclass(frozen=True)
class Record:
    """A record in text form: ``name`` and names in ``data`` are absolute, with their final dot."""

    name: str
    kind: str
    data: str


@dataclass
class Answer:
    """What is known of a name. ``known`` without records means: the name exists, not with that type."""

    known: bool
    records: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class _Member:
    """An address behind a headless service, with the label by which it is found there."""

    label: str
    address: str
    ports: tuple[tuple[str, str, int], ...]  # name, protocol, number


def key_of(thing: Object) -> Key:
    """Namespace and name of an object; the namespace is empty for those that have none."""
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


class Names:
    """The names of one cluster, kept up to date by ``replace`` and ``change``."""

    KINDS = ("services", "endpoints", "namespaces")

    def __init__(self, zone: str) -> None:
        self.zone = zone.strip(".").lower()
        self._objects: dict[str, dict[Key, Object]] = {kind: {} for kind in self.KINDS}

    def replace(self, kind: str, objects: Iterable[Object]) -> None:
        """All objects of a kind as a list gave them."""
        self._objects[kind] = {key_of(thing): thing for thing in objects}

    def change(self, kind: str, event: str, thing: Object) -> None:
        """One event of a watch: ``ADDED``, ``MODIFIED`` or ``DELETED``."""
        if event == "DELETED":
            self._objects[kind].pop(key_of(thing), None)
        else:
            self._objects[kind][key_of(thing)] = thing

    def ours(self, name: str) -> bool:
        """Whether this server is the one to ask: names of the zone, and addresses' names."""
        bare = name.rstrip(".").lower()
        return bare == self.zone or bare.endswith((f".{self.zone}", ".in-addr.arpa", ".ip6.arpa"))

    def answer(self, name: str, kind: str) -> Answer:
        """The records of a name (with or without final dot) for a query type such as ``A`` or ``SRV``."""
        absolute = f"{name.rstrip('.').lower()}."
        if absolute.endswith(".arpa."):
            return self._reverse(absolute, kind)
        found = self._inside(absolute)
        for _ in range(MAX_ALIASES):
            alias = found.records[-1] if found.records and found.records[-1].kind == "CNAME" else None
            if alias is None or kind == "CNAME" or not self.ours(alias.data):
                break
            further = self._inside(alias.data)
            found = Answer(True, [*found.records, *further.records], further.additional)
        chosen = [record for record in found.records if record.kind in (kind, "CNAME") or kind == "ANY"]
        return Answer(found.known, chosen, found.additional if kind in ("SRV", "ANY") else [])

    def _inside(self, absolute: str) -> Answer:
        labels = absolute.removesuffix(f"{self.zone}.").rstrip(".").split(".")
        labels = [label for label in labels if label]
        if not labels:
            return Answer(True)
        if labels == ["dns-version"]:
            return Answer(True, [Record(absolute, "TXT", f'"{SCHEMA}"')])
        if labels[-1] == "svc":
            return self._below_services(absolute, labels[:-1])
        if labels[-1] == "pod":
            return self._pod(absolute, labels[:-1])
        return Answer(False)

    def _namespace(self, name: str) -> bool:
        return ("", name) in self._objects["namespaces"]

    def _below_services(self, absolute: str, labels: list[str]) -> Answer:
        if len(labels) < 2:
            return Answer(not labels or self._namespace(labels[0]))
        key = (labels[-1], labels[-2])
        service = self._objects["services"].get(key)
        if service is None:
            return Answer(False)
        below = labels[:-2]
        return (
            self._below_service(absolute, key, service, below)
            if below
            else self._service(absolute, key, service)
        )

    def _below_service(self, absolute: str, key: Key, service: Object, labels: list[str]) -> Answer:
        if len(labels) == 2 and labels[0].startswith("_") and labels[1].startswith("_"):
            return self._ports(absolute, key, service, labels[0][1:], labels[1][1:])
        if len(labels) == 1 and labels[0].startswith("_"):
            transports = {protocol.lower() for _, protocol, _, _ in self._targets(key, service)}
            return Answer(labels[0][1:] in transports)
        if len(labels) == 1 and _headless(service):
            return self._member(absolute, key, labels[0])
        return Answer(False)

    def _service(self, absolute: str, key: Key, service: Object) -> Answer:
        external = service["spec"].get("externalName")
        if service["spec"].get("type") == "ExternalName":
            return Answer(True, [Record(absolute, "CNAME", f"{str(external).rstrip('.').lower()}.")])
        if _headless(service):
            addresses = dict.fromkeys(member.address for member in self._members(key))
        else:
            addresses = dict.fromkeys([service["spec"]["clusterIP"]])
        ports = [
            Record(absolute, "SRV", f"0 100 {number} {target}")
            for name, _, number, target in self._targets(key, service)
            if name
        ]
        return Answer(
            True, [*(_address(absolute, item) for item in addresses), *ports], self._hosts(key, service)
        )

    def _ports(self, absolute: str, key: Key, service: Object, port: str, protocol: str) -> Answer:
        found = [
            Record(absolute, "SRV", f"0 100 {number} {target}")
            for name, transport, number, target in self._targets(key, service)
            if name == port and transport.lower() == protocol
        ]
        return Answer(bool(found), found, self._hosts(key, service) if found else [])

    def _member(self, absolute: str, key: Key, label: str) -> Answer:
        found = [member for member in self._members(key) if member.label == label]
        return Answer(bool(found), [_address(absolute, member.address) for member in found])

    def _targets(self, key: Key, service: Object) -> Iterator[tuple[str, str, int, str]]:
        """(port name, protocol, number, host) of a service."""
        name = self._name(key)
        if _headless(service):
            for member in self._members(key):
                for port, protocol, number in member.ports:
                    yield port, protocol, number, f"{member.label}.{name}"
        else:
            for item in service["spec"].get("ports") or []:
                yield item.get("name") or "", item.get("protocol", "TCP"), item["port"], name

    def _hosts(self, key: Key, service: Object) -> list[Record]:
        """The addresses of the hosts that SRV records name."""
        name = self._name(key)
        if _headless(service):
            return [_address(f"{member.label}.{name}", member.address) for member in self._members(key)]
        return [_address(name, service["spec"]["clusterIP"])] if service["spec"].get("clusterIP") else []

    def _members(self, key: Key) -> Iterator[_Member]:
        """The ready addresses behind a service: the API counts those as ready that it publishes anyway."""
        for subset in self._objects["endpoints"].get(key, {}).get("subsets") or []:
            ports = tuple(
                (item.get("name") or "", item.get("protocol", "TCP"), item["port"])
                for item in subset.get("ports") or []
            )
            for item in subset.get("addresses") or []:
                label = item.get("hostname") or item["ip"].replace(".", "-").replace(":", "-")
                yield _Member(label.lower(), item["ip"], ports)

    def _name(self, key: Key) -> str:
        return f"{key[1]}.{key[0]}.svc.{self.zone}."

    def _pod(self, absolute: str, labels: list[str]) -> Answer:
        """``10-1-2-3.namespace.pod``: the address that the name spells, whether a pod has it or not."""
        if not labels:
            return Answer(True)
        if not self._namespace(labels[-1]):
            return Answer(False)
        if len(labels) == 1:
            return Answer(True)
        try:
            address = ipaddress.IPv4Address(labels[0].replace("-", "."))
        except ValueError:
            return Answer(False)
        return Answer(len(labels) == 2, [_address(absolute, str(address))] if len(labels) == 2 else [])

    def _reverse(self, absolute: str, kind: str) -> Answer:
        address = _spelled(absolute)
        names = list(dict.fromkeys(self._called(address))) if address else []
        records = [Record(absolute, "PTR", name) for name in names]
        return Answer(bool(names), records if kind in ("PTR", "ANY") else [])

    def _called(self, address: str) -> Iterator[str]:
        for key, service in self._objects["services"].items():
            if _headless(service):
                yield from (
                    f"{member.label}.{self._name(key)}"
                    for member in self._members(key)
                    if member.address == address
                )
            elif service["spec"].get("clusterIP") == address:
                yield self._name(key)


def _headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _address(name: str, address: str) -> Record:
    return Record(name, "AAAA" if ":" in address else "A", address)


def _spelled(absolute: str) -> str:
    """The IPv4 address that a name below in-addr.arpa spells; empty for anything else."""
    labels = absolute.removesuffix(".in-addr.arpa.").split(".")
    try:
        return str(ipaddress.IPv4Address(".".join(reversed(labels))))
    except ValueError:
        return ""
