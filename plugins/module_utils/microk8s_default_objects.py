# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""The API objects of MicroK8s' default pod network: withdrawn node by node, deleted with the last one,
brought back.

A node that is taken over gets a label that the network's DaemonSet is told to avoid. So on a running cluster
the nodes whose turn has not come keep a whole network, and nothing rewrites what is removed from those whose
turn it was.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_kubectl import Kubectl
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_takeover import ASIDE, MANIFEST

LABEL = "podwire.io/network"
LABEL_VALUE = "podwire"
#: Deleting a definition deletes every object of it, people's own Calico policies too; alone it does no harm.
KEPT_KINDS = frozenset({"CustomResourceDefinition"})
#: The workloads go first, so that nothing recreates what is removed after them.
WORKLOADS = ("DaemonSet", "Deployment")
_AVOID = {"key": LABEL, "operator": "NotIn", "values": [LABEL_VALUE]}


def avoiding(affinity: Mapping[str, Any] | None) -> dict[str, Any]:
    """The affinity with the condition that the node must not be podwire's; equal to the argument when it is
    there.
    """
    result: dict[str, Any] = copy.deepcopy(dict(affinity or {}))
    node = result.setdefault("nodeAffinity", {})
    required = node.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    # The terms are alternatives, so each needs the condition.
    terms = required.setdefault("nodeSelectorTerms", []) or [{}]
    for term in terms:
        expressions = term.setdefault("matchExpressions", [])
        if _AVOID not in expressions:
            expressions.append(dict(_AVOID))
    required["nodeSelectorTerms"] = terms
    return result


def reference(item: Mapping[str, Any]) -> tuple[str, str, str]:
    """(kind with group, namespace, name) of an object, in kubectl's terms."""
    group, _, _ = str(item.get("apiVersion", "")).rpartition("/")
    kind = str(item["kind"]) + (f".{group}" if group else "")
    metadata = item["metadata"]
    return kind, str(metadata.get("namespace", "")), str(metadata["name"])


def selector(item: Mapping[str, Any]) -> str:
    """A workload's label selector as kubectl takes it."""
    labels = item["spec"]["selector"].get("matchLabels") or {}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


class DefaultObjects:
    """The default network's objects in the cluster of this control plane."""

    def __init__(self, kubectl: Kubectl, *, deadline: float, dry: bool) -> None:
        self.kubectl = kubectl
        self.deadline = deadline
        self.dry = dry
        self.steps: list[str] = []

    def manifest(self) -> Path:
        """The manifest, in its place or put aside."""
        folder = self.kubectl.layout.cni_conf
        for name in (MANIFEST, ASIDE):
            if (folder / name).is_file():
                return folder / name
        raise PodwireError(
            f"There is neither {MANIFEST} nor {ASIDE} in {folder}",
            "It says which objects the default network consists of. Copy it from another control plane, or "
            "from "
            "/snap/microk8s/current/upgrade-scripts/000-switch-to-calico/resources/calico.yaml, then run "
            "again.",
        )

    def present(self) -> list[dict[str, Any]]:
        """Those of the manifest's objects that the cluster has, as it has them."""
        text = self.kubectl.run("get", "-f", str(self.manifest()), "--ignore-not-found", "-o", "json")
        if not text.strip():
            return []
        found = json.loads(text)
        return list(found["items"]) if found.get("kind") == "List" else [found]

    def withdraw(self, node: str) -> None:
        """Take the default network's daemon off one node; with the last node, delete the network's
        objects.
        """
        found = self.present()
        nodes = self.kubectl.items("nodes")
        if node not in {str(item["metadata"]["name"]) for item in nodes}:
            raise PodwireError(
                f"The cluster has no node {node}", "Join it first, and give the name it registered under."
            )
        labels = {
            str(item["metadata"]["name"]): (item["metadata"].get("labels") or {}).get(LABEL) for item in nodes
        }
        if labels[node] != LABEL_VALUE:
            self._step(
                f"label node {node} {LABEL}={LABEL_VALUE}",
                "label",
                "node",
                node,
                f"{LABEL}={LABEL_VALUE}",
                "--overwrite",
            )
        rest = [name for name, value in labels.items() if name != node and value != LABEL_VALUE]
        workloads = [item for item in found if item["kind"] in WORKLOADS]
        if rest:
            for item in workloads:
                if item["kind"] == "DaemonSet":
                    self._keep_off(item)
            selectors = [selector(item) for item in workloads if item["kind"] == "DaemonSet"]
            self._wait_gone(workloads, selectors, node)
            return
        self._delete(workloads)
        # After an interrupted run the workloads are gone and their pods may not be.
        self._wait_gone(workloads, [selector(item) for item in workloads], None)
        self._delete([item for item in found if item["kind"] not in (*WORKLOADS, *KEPT_KINDS)])

    def unlabel(self, node: str) -> None:
        """Let the default network's daemon run on the node again."""
        item = self.kubectl.get("node", node)
        if item and LABEL in (item["metadata"].get("labels") or {}):
            self._step(f"remove label {LABEL} from node {node}", "label", "node", node, f"{LABEL}-")

    def wait_rolled_out(self) -> None:
        """Wait until the network's daemon is there and runs on every node that it is meant for."""
        self._until(self._rollout, "MicroK8s' own network does not come up")

    def _rollout(self) -> str:
        daemons = [item for item in self.present() if item["kind"] == "DaemonSet"]
        if not daemons:
            name = self.manifest().name
            return f"{name} has not been applied (see journalctl -u snap.microk8s.daemon-apiserver-kicker)"
        for item in daemons:
            status = item.get("status") or {}
            desired, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
            seen = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
            if (
                not seen
                or desired == 0
                or ready < desired
                or status.get("updatedNumberScheduled", 0) < desired
            ):
                return f"DaemonSet {item['metadata']['name']}: {ready} of {desired} pods are ready"
        return ""

    def _keep_off(self, item: Mapping[str, Any]) -> None:
        before = item["spec"]["template"]["spec"].get("affinity")
        after = avoiding(before)
        if after == before:
            return
        patch = json.dumps({"spec": {"template": {"spec": {"affinity": after}}}})
        kind, namespace, name = reference(item)
        self._step(
            f"keep {name} off podwire's nodes",
            "patch",
            kind,
            name,
            "-n",
            namespace,
            "--type=merge",
            "-p",
            patch,
        )

    def _delete(self, items: Iterable[Mapping[str, Any]]) -> None:
        by_namespace: dict[str, list[str]] = {}
        for item in items:
            if not item["metadata"].get("deletionTimestamp"):
                kind, namespace, name = reference(item)
                by_namespace.setdefault(namespace, []).append(f"{kind}/{name}")
        for namespace, names in by_namespace.items():
            scope = ["-n", namespace] if namespace else []
            what = f"delete {', '.join(names)}"
            self._step(what, "delete", *names, *scope, "--ignore-not-found", "--wait=false")

    def _wait_gone(
        self, workloads: Iterable[Mapping[str, Any]], selectors: Iterable[str], node: str | None
    ) -> None:
        namespaces = {str(item["metadata"]["namespace"]) for item in workloads}
        where = [f"--field-selector=spec.nodeName={node}"] if node else []
        chosen = [text for text in selectors if text]
        if self.dry or not chosen:
            return

        def left() -> str:
            pods = [
                f"{pod['metadata']['name']} on {pod['spec'].get('nodeName')}"
                for namespace in sorted(namespaces)
                for labels in chosen
                for pod in self.kubectl.items("pods", "-n", namespace, "-l", labels, *where)
            ]
            return f"these pods still run: {', '.join(pods)}" if pods else ""

        self._until(left, "MicroK8s' own network does not end")

    def _until(self, missing: Callable[[], str], problem: str) -> None:
        while True:
            text = missing()
            if not text:
                return
            if time.monotonic() >= self.deadline:
                raise PodwireError(
                    f"{problem}: {text}",
                    "Look at microk8s kubectl -n kube-system describe pods, then run again.",
                )
            time.sleep(0.5)

    def _step(self, what: str, *command: str) -> None:
        self.steps.append(what)
        if not self.dry:
            self.kubectl.run(*command)
