"""Which path serves a resource that moved between versions of the API."""

from __future__ import annotations

from podwire.kube.client import ApiError, KubeClient

_DISCOVERY = "/apis/discovery.k8s.io"
_SLICE_VERSIONS = ("v1", "v1beta1")


def endpoint_slices(client: KubeClient) -> str:
    """Path of EndpointSlices: v1, or v1beta1 before Kubernetes 1.21. Raises ApiError."""
    served = {version.get("version") for version in client.get(_DISCOVERY).get("versions") or () if version}
    for version in _SLICE_VERSIONS:
        if version in served:
            return f"{_DISCOVERY}/{version}/endpointslices"
    raise ApiError(
        f"Kubernetes API {client.server} serves EndpointSlice in none of the versions "
        f"{', '.join(_SLICE_VERSIONS)}: podwire needs Kubernetes 1.19 or newer"
    )
