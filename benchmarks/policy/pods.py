"""Pods for the measurement on a lab: a namespace of its own with pods that sleep, on all nodes in turn."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from lab.imagebuild import PROBE
from podwire.kube.client import ApiError, KubeClient

APPS = 10
"""Values of the label ``app``; pods of each are on every node."""
START_SECONDS = 300.0
END_SECONDS = 180.0
NAMESPACES = "/api/v1/namespaces"


class Pod(NamedTuple):
    """A pod that runs."""

    node: str
    app: str
    address: str


def pod(number: int, nodes: Sequence[str]) -> dict[str, Any]:
    """Pod ``number``, from 0, which needs no scheduler."""
    app = number // len(nodes) % APPS
    container = {
        "name": "sleep", "image": PROBE, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "86400"],
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"pod-{number}", "labels": {"app": f"app-{app}"}},
        "spec": {
            "nodeName": nodes[number % len(nodes)],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    }


@contextlib.contextmanager
def running(client: KubeClient, nodes: Sequence[str], count: int) -> Iterator[tuple[str, list[Pod]]]:
    """A namespace with ``count`` pods that run; gone afterwards. Raises ApiError or TimeoutError."""
    namespace = f"policy-benchmark-{secrets.token_hex(2)}"
    client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    path = f"{NAMESPACES}/{namespace}/pods"
    try:
        _create(client, path, pod(0, nodes))  # waits until the namespace has its service account
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: client.create(path, pod(number, nodes)), range(1, count)))
        yield namespace, _started(client, path, count)
    finally:
        client.delete(f"{NAMESPACES}/{namespace}")
        _await_end(client, namespace)


def _create(client: KubeClient, path: str, value: dict[str, Any]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            client.create(path, value)
        except ApiError as error:
            if error.status != 403 or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _started(client: KubeClient, path: str, count: int) -> list[Pod]:
    deadline = time.monotonic() + START_SECONDS
    while True:
        items = client.get(path)["items"]
        found = [
            Pod(item["spec"]["nodeName"], item["metadata"]["labels"]["app"], item["status"]["podIP"])
            for item in items
            if item["status"].get("phase") == "Running" and item["status"].get("podIP")
        ]
        if len(found) == count:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(found)} of {count} pods run after {START_SECONDS:.0f} s")
        time.sleep(2)


def _await_end(client: KubeClient, namespace: str) -> None:
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        try:
            client.get(f"{NAMESPACES}/{namespace}")
        except ApiError as error:
            if error.status == 404:
                return
        time.sleep(2)
    raise TimeoutError(f"namespace {namespace} still ends after {END_SECONDS:.0f} s")
