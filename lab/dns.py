"""The lab's cluster DNS in the cluster: its objects, and having them there."""

from __future__ import annotations

import json
from typing import Any

from lab.checks import Cluster
from lab.imagebuild import CLUSTER_DNS
from lab.process import Log

NAMESPACE = "kube-system"
NAME = "cluster-dns"
# Where MicroK8s' add-on puts it, and what kubelet tells pods (--cluster-dns, --cluster-domain).
SERVICE = "kube-dns"
ADDRESS = "10.152.183.10"
DOMAIN = "cluster.local"
LABELS = {"k8s-app": "kube-dns"}
ROLLOUT_SECONDS = 90


def manifest() -> list[dict[str, Any]]:
    """A deployment of one pod, the service in front of it, and permission to read what it answers from."""
    meta = {"name": NAME, "namespace": NAMESPACE, "labels": LABELS}
    rules = [
        {
            "apiGroups": [""],
            "resources": ["services", "endpoints", "namespaces"],
            "verbs": ["list", "watch"],
        }
    ]
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    authorization = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{authorization}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": NAME},
            "rules": rules,
        },
        {
            "apiVersion": f"{authorization}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": authorization, "kind": "ClusterRole", "name": NAME},
            "subjects": [account],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "name": SERVICE},
            "spec": {
                "selector": LABELS,
                "clusterIP": ADDRESS,
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53},
                    {"name": "dns-tcp", "protocol": "TCP", "port": 53},
                ],
            },
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": LABELS},
                "template": {"metadata": {"labels": LABELS}, "spec": _pod()},
            },
        },
    ]


def _pod() -> dict[str, Any]:
    container = {
        "name": NAME,
        "image": CLUSTER_DNS,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "CLUSTER_DOMAIN", "value": DOMAIN}],
        # It listens once it knows all names.
        "readinessProbe": {"tcpSocket": {"port": 53}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": 53}, "periodSeconds": 10, "initialDelaySeconds": 60},
        "resources": {"limits": {"memory": "128Mi"}},
    }
    return {
        "serviceAccountName": NAME,
        "priorityClassName": "system-cluster-critical",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
    }


def ensure(cluster: Cluster, log: Log) -> None:
    """Have the cluster DNS there and answering. Raises LabError when it does not come up."""
    objects = {"apiVersion": "v1", "kind": "List", "items": manifest()}
    log(cluster.run("apply", "-f", "-", stdin=json.dumps(objects)))
    words = ("-n", NAMESPACE, "rollout", "status", f"deployment/{NAME}", f"--timeout={ROLLOUT_SECONDS}s")
    log(cluster.run(*words, timeout=ROLLOUT_SECONDS + 30))
