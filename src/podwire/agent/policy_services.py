"""Services, as far as policies name them (toServices): followed from the first policy on that does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from typing import Any, NamedTuple

from podwire.kube.discovery import endpoint_slices
from podwire.kube.reflector import Change, Connection, Reflector, Resource, fixed
from podwire.policy.labels import K8S, key
from podwire.policy.world import ServiceView

log = logging.getLogger(__name__)

SERVICES = "/api/v1/services"
_SERVICE_NAME = "kubernetes.io/service-name"


class ServiceObject(NamedTuple):
    """What policies need of a Service."""

    labels: Mapping[str, str]
    selector: Mapping[str, str]


class SliceObject(NamedTuple):
    """What policies need of an EndpointSlice."""

    service: str
    """``namespace/name``; empty when it belongs to none."""
    addresses: frozenset[IPv4Address]


def service(value: Mapping[str, Any]) -> ServiceObject:
    """Read a Service. Never raises for what an API server accepts."""
    metadata, spec = value.get("metadata") or {}, value.get("spec") or {}
    labels = {key(K8S, name): text for name, text in _texts(metadata.get("labels")).items()}
    return ServiceObject(labels, _texts(spec.get("selector")))


def endpoint_slice(value: Mapping[str, Any]) -> SliceObject:
    """Read an EndpointSlice. Never raises for what an API server accepts."""
    metadata = value.get("metadata") or {}
    name = _texts(metadata.get("labels")).get(_SERVICE_NAME, "")
    found: set[IPv4Address] = set()
    for item in value.get("endpoints") or () if value.get("addressType") == "IPv4" else ():
        for address in item.get("addresses") or () if isinstance(item, Mapping) else ():
            try:
                found.add(IPv4Address(str(address)))
            except AddressValueError:
                continue
    return SliceObject(f"{metadata.get('namespace', '')}/{name}" if name else "", frozenset(found))


def _texts(value: Any) -> dict[str, str]:
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, Mapping) else {}


class ServiceTable:
    """What was delivered, and what it comes to. Pure."""

    def __init__(self) -> None:
        self._services: dict[str, ServiceObject] = {}
        self._slices: dict[str, SliceObject] = {}
        self._known: set[str] = set()

    @property
    def complete(self) -> bool:
        return len(self._known) == 2

    def take_services(self, changes: Sequence[Change[ServiceObject]], complete: bool) -> None:
        _apply(self._services, changes)
        if complete:
            self._known.add("services")

    def take_slices(self, changes: Sequence[Change[SliceObject]], complete: bool) -> None:
        _apply(self._slices, changes)
        if complete:
            self._known.add("slices")

    def views(self) -> tuple[ServiceView, ...]:
        """Every service; addresses of those alone whose endpoints are written by hand."""
        addresses: dict[str, frozenset[IPv4Address]] = {}
        for item in self._slices.values():
            found = self._services.get(item.service)
            if found is not None and not found.selector:
                addresses[item.service] = addresses.get(item.service, frozenset()) | item.addresses
        return tuple(
            _view(name, item, addresses.get(name, frozenset()))
            for name, item in sorted(self._services.items())
        )


def _view(full: str, item: ServiceObject, addresses: frozenset[IPv4Address]) -> ServiceView:
    namespace, _, name = full.partition("/")
    return ServiceView(namespace, name, item.labels, item.selector, addresses)


def _apply(table: dict[str, Any], changes: Sequence[Change[Any]]) -> None:
    for name, item in changes:
        if item is None:
            table.pop(name, None)
        else:
            table[name] = item


OnServices = Callable[[tuple[ServiceView, ...]], None]


class PolicyServices:
    """Follows services from the first ``want`` on. Methods may be called from any thread."""

    def __init__(self, connection: Connection, on_services: OnServices) -> None:
        """``on_services`` takes every service, when all are known and whenever one changes."""
        self._table = ServiceTable()
        self._guard = threading.Lock()
        self._on_services = on_services
        self._started = False
        self._reflectors: tuple[Reflector[Any], ...] = (
            Reflector(
                connection, Resource("Services", fixed(SERVICES), service), self._taking("take_services")
            ),
            Reflector(
                connection,
                Resource("EndpointSlices", endpoint_slices, endpoint_slice),
                self._taking("take_slices"),
            ),
        )

    def want(self) -> bool:
        """Policies name services: are these known completely? Starts to follow them."""
        with self._guard:
            started, self._started = self._started, True
        if not started:
            for reflector in self._reflectors:
                reflector.start()
        return self._table.complete

    @property
    def problem(self) -> str:
        """Why services that policies name are not known; empty when they are, or nobody asked."""
        if not self._started or self._table.complete:
            return ""
        reasons = (item.detail for item in self._reflectors if not item.synced)
        return f"policies name services, which are not known yet: {next(reasons, 'not connected yet')}"

    def stop(self) -> None:
        for reflector in self._reflectors:
            reflector.stop()

    def _taking(self, method: str) -> Callable[[Sequence[Change[Any]], bool], None]:
        def take(changes: Sequence[Change[Any]], complete: bool) -> None:
            with self._guard:
                getattr(self._table, method)(changes, complete)
                if not self._table.complete:
                    return
                views = self._table.views()
            self._on_services(views)

        return take
