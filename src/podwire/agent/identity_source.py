"""Where the agent learns what identities are made from, and what other agents made of theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from podwire.agent import identity_objects as objects
from podwire.agent.identity_objects import IdentityObject, NodeEndpointsObject, PodObject
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.discovery import endpoint_slices
from podwire.kube.reflector import Change, Connection, Reflector, Resource, fixed
from podwire.policy.model import Labels

_NOT_FOUND = 404
_API_SERVER_SELECTOR = {"labelSelector": "kubernetes.io/service-name=kubernetes"}


class IdentitySink(Protocol):
    """Takes what a source finds, in the source's threads. ``complete``: see Reflector."""

    def take_namespaces(self, changes: Sequence[Change[Labels]], complete: bool) -> None: ...
    def take_pods(self, changes: Sequence[Change[PodObject]], complete: bool) -> None: ...
    def take_identities(self, changes: Sequence[Change[IdentityObject]], complete: bool) -> None: ...
    def take_node_endpoints(self, changes: Sequence[Change[NodeEndpointsObject]], complete: bool) -> None: ...
    def take_api_servers(self, changes: Sequence[Change[frozenset[str]]], complete: bool) -> None: ...


class KubernetesIdentities:
    """Namespaces, this node's Pods, Identities, NodeEndpoints and the API servers' addresses."""

    def __init__(
        self, connection: Connection, node: str, sink: IdentitySink, on_missing: Callable[[str], None]
    ) -> None:
        """``on_missing``: told that the API serves no such objects as podwire's, in a source's thread."""
        pods = {"fieldSelector": f"spec.nodeName={node}"}
        namespaces = Resource("Namespaces", fixed(objects.NAMESPACES), objects.namespace)
        own_pods = Resource("Pods", fixed(objects.PODS), objects.pod, pods)
        api_servers = Resource("API servers", _api_server_path, api_server_addresses, _API_SERVER_SELECTOR)
        identities = Resource("Identities", self._path_of(objects.IDENTITIES), objects.identity)
        nodes = Resource("NodeEndpoints", self._path_of(objects.NODE_ENDPOINTS), objects.node_endpoints)
        self._on_missing = on_missing
        self._reflectors: tuple[Reflector[Any], ...] = (
            Reflector(connection, identities, sink.take_identities),
            Reflector(connection, nodes, sink.take_node_endpoints),
            Reflector(connection, namespaces, sink.take_namespaces),
            Reflector(connection, own_pods, sink.take_pods),
            Reflector(connection, api_servers, sink.take_api_servers),
        )

    @property
    def connected(self) -> bool:
        return all(reflector.connected for reflector in self._reflectors)

    @property
    def detail(self) -> str:
        away = (reflector for reflector in self._reflectors if not reflector.connected)
        return next(away, self._reflectors[0]).detail

    def start(self) -> None:
        for reflector in self._reflectors:
            reflector.start()

    def stop(self) -> None:
        for reflector in self._reflectors:
            reflector.stop()

    def _path_of(self, collection: str) -> Callable[[KubeClient], str]:
        """A path of podwire's own API. Asks first whether it is served: that nobody has an identity and that
        there are no identities are not the same."""

        def path(client: KubeClient) -> str:
            plural = collection.rpartition("/")[2]
            try:
                resources = client.get(objects.API).get("resources") or ()
            except ApiError as error:
                if error.status != _NOT_FOUND:
                    raise
                resources = ()
            if plural not in [item.get("name") for item in resources]:
                reason = f"the Kubernetes API serves no {plural} ({objects.API})"
                self._on_missing(reason)
                raise ApiError(reason, _NOT_FOUND)
            return collection

        return path


def _api_server_path(client: KubeClient) -> str:
    """Path of the EndpointSlices beside service ``kubernetes``. Raises ApiError."""
    collection, _, resource = endpoint_slices(client).rpartition("/")
    return f"{collection}/namespaces/default/{resource}"


def api_server_addresses(value: Mapping[str, Any]) -> frozenset[str]:
    """IPv4 addresses of an EndpointSlice, ready or not: what answers there is an API server. Pure."""
    if value.get("addressType") != "IPv4":
        return frozenset()
    found = (item.get("addresses") for item in value.get("endpoints") or ())
    return frozenset(str(address) for addresses in found for address in addresses or ())
