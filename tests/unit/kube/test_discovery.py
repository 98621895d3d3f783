"""EndpointSlices are found in whatever version is served, also after the API server was upgraded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from podwire.kube.client import ApiError, KubeClient
from podwire.kube.discovery import endpoint_slices
from podwire.kube.reflector import Connection, Reflector, Resource

from .api_server import Api, wait_for

GROUP = "/apis/discovery.k8s.io"


def serve(server: Api, *versions: str) -> None:
    server.documents[GROUP] = {"kind": "APIGroup", "versions": [{"version": name} for name in versions]}


@pytest.mark.parametrize(
    ("versions", "chosen"), [(("v1", "v1beta1"), "v1"), (("v1beta1",), "v1beta1"), (("v2", "v1"), "v1")]
)
def test_the_best_version_is_chosen(api: tuple[Api, Path], versions: tuple[str, ...], chosen: str) -> None:
    server, kubeconfig = api
    serve(server, *versions)
    assert endpoint_slices(KubeClient(kubeconfig)) == f"{GROUP}/{chosen}/endpointslices"


def test_an_api_without_slices_is_named(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    serve(server, "v2")
    with pytest.raises(ApiError, match=r"EndpointSlice in none of the versions v1, v1beta1"):
        endpoint_slices(KubeClient(kubeconfig))


def test_an_upgrade_that_ends_the_old_version_is_followed(api: tuple[Api, Path]) -> None:
    server, kubeconfig = api
    serve(server, "v1beta1")
    item = {"metadata": {"namespace": "ns", "name": "s", "resourceVersion": "3"}}
    server.objects[f"{GROUP}/v1beta1/endpointslices"] = [item]
    calls: list[Any] = []
    reflector = Reflector(
        Connection(partial(KubeClient, kubeconfig)),
        Resource("EndpointSlices", endpoint_slices, lambda value: "parsed"),
        lambda changes, complete: calls.append((list(changes), complete)),
    )
    reflector.start()
    try:
        wait_for(lambda: calls)
        serve(server, "v1")
        other = {"metadata": {"namespace": "ns", "name": "t", "resourceVersion": "9"}}
        server.objects = {f"{GROUP}/v1/endpointslices": [item, other]}
        wait_for(lambda: len(calls) == 2)
    finally:
        reflector.stop()
    assert calls == [([("ns/s", "parsed")], True), ([("ns/t", "parsed")], True)]
