"""Where the agent learns of services and their endpoints: the Kubernetes API, or a file for hosts without
one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from podwire.kube.discovery import endpoint_slices
from podwire.kube.files import FileKind, FileReflector
from podwire.kube.reflector import Change, Connection, Reflector, Resource, fixed
from podwire.service import parse
from podwire.service.model import Service, Slice

SERVICES = "/api/v1/services"


class ServiceSink(Protocol):
    """Takes what a source finds, in the source's threads. ``complete``: see Reflector."""

    def take_services(self, changes: Sequence[Change[Service]], complete: bool) -> None: ...
    def take_slices(self, changes: Sequence[Change[Slice]], complete: bool) -> None: ...


class ServiceSource(Protocol):
    """``connected`` says whether what was delivered is current; ``detail`` why not, or from where."""

    @property
    def connected(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class KubernetesServices:
    """Services and EndpointSlices as the Kubernetes API has them."""

    def __init__(self, connection: Connection, sink: ServiceSink) -> None:
        services = Resource("Services", fixed(SERVICES), parse.service)
        slices = Resource("EndpointSlices", endpoint_slices, parse.endpoint_slice)
        self._services = Reflector(connection, services, sink.take_services)
        self._slices = Reflector(connection, slices, sink.take_slices)

    @property
    def connected(self) -> bool:
        return self._services.connected and self._slices.connected

    @property
    def detail(self) -> str:
        return (self._slices if self._services.connected else self._services).detail

    def start(self) -> None:
        self._services.start()
        self._slices.start()

    def stop(self) -> None:
        self._services.stop()
        self._slices.stop()


class FileServices(FileReflector):
    """Objects of the kinds Service and EndpointSlice in a file."""

    def __init__(self, path: Path, sink: ServiceSink) -> None:
        kinds = (
            FileKind("EndpointSlice", parse.endpoint_slice, sink.take_slices),
            FileKind("Service", parse.service, sink.take_services),
        )
        super().__init__(path, kinds)
