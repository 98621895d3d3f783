"""Kubernetes credentials files: everything embedded, one cluster, one user."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from . import files
from .layout import Layout

SERVER = "https://127.0.0.1:16443"

TEMPLATE = """\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {server}
  name: microk8s-cluster
contexts:
- context:
    cluster: microk8s-cluster
    user: {user}
  name: microk8s
current-context: microk8s
kind: Config
preferences: {{}}
users:
- name: {user}
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
"""

# credentials file -> (certificate, user)
USERS = {
    "client.config": ("client", "admin"),
    "kubelet.config": ("kubelet", "system:node"),
    "proxy.config": ("proxy", "kubeproxy"),
    "scheduler.config": ("scheduler", "system:kube-scheduler"),
    "controller.config": ("controller", "system:kube-controller-manager"),
}


def _encode(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()


def render(*, ca: str, cert: str, key: str, user: str, server: str = SERVER) -> str:
    """The text of a kubeconfig; ca, cert and key are PEM."""
    return TEMPLATE.format(ca=_encode(ca), cert=_encode(cert), key=_encode(key), user=user, server=server)


def with_server(text: str, server: str) -> str:
    """The same credentials for another address."""
    return re.sub(r"(?m)^(\s*server: ).*$", rf"\g<1>{server}", text)


def create_all(layout: Layout) -> None:
    """The credentials files of a control-plane node, from its certificates."""
    for name in USERS:
        create(layout, name, layout.cert("ca.crt"))


def create(layout: Layout, name: str, ca: Path) -> None:
    """One credentials file, from the certificate it belongs to."""
    cert, user = USERS[name]
    text = render(
        ca=ca.read_text(),
        cert=layout.cert(f"{cert}.crt").read_text(),
        key=layout.cert(f"{cert}.key").read_text(),
        user=user,
    )
    files.write(layout.credential(name), text)
