"""Joining a cluster as a worker, and leaving it."""

from __future__ import annotations

import http.client
import ipaddress
import json
import shutil
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from . import agent, argsfile, certs, containers, files, host, kubeconfig, network, nodefiles
from .layout import Layout
from .tokens import MINIMUM_LENGTH

EXIT_INPUT = 1
EXIT_TLS = 4
EXIT_CONNECT = 5
EXIT_REFUSED = 6
CHECK_LENGTH = 12
ANSWER_LIMIT = 120.0


class JoinError(Exception):
    """The node did not join; the message says why, exit_code is the command's."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Target:
    """What `microk8s join ADDRESS:PORT/TOKEN[/CHECK]` names."""

    address: str
    port: int
    token: str
    check: str | None


def parse_target(text: str) -> Target:
    """Read a join URL. Raises JoinError with exit code 1."""
    endpoint, _, rest = text.partition("/")
    address, _, port = endpoint.rpartition(":")
    token, _, check = rest.partition("/")
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        raise JoinError(
            EXIT_INPUT, f"{address or text!r} is not an IPv4 address; use a URL that add-node printed"
        ) from None
    if not port.isdigit():
        raise JoinError(EXIT_INPUT, f"{port!r} is not a port")
    if len(token) < MINIMUM_LENGTH:
        raise JoinError(
            EXIT_INPUT, f"the token is shorter than {MINIMUM_LENGTH} characters; run add-node for a new one"
        )
    if check and len(check) < CHECK_LENGTH:
        raise JoinError(EXIT_INPUT, f"the fingerprint is shorter than {CHECK_LENGTH} characters")
    return Target(address, int(port), token, check or None)


class Remote:
    """The cluster agent of the contacted node, its certificate checked before anything is sent."""

    def __init__(self, target: Target, verify: bool = True) -> None:
        self.target = target
        self.check = target.check if verify else None

    def _connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            self.target.address, self.target.port, context=context, timeout=ANSWER_LIMIT
        )
        where = f"{self.target.address}:{self.target.port}"
        try:
            connection.connect()
        except ssl.SSLError as error:
            raise JoinError(EXIT_TLS, f"no TLS with {where}: {error}") from error
        except OSError as error:
            raise JoinError(EXIT_CONNECT, f"cannot connect to {where}: {error}") from error
        if self.check:
            assert isinstance(connection.sock, ssl.SSLSocket)
            der = connection.sock.getpeercert(binary_form=True) or b""
            found = certs.fingerprint(ssl.DER_cert_to_PEM_cert(der))
            if not found.startswith(self.check):
                connection.close()
                raise JoinError(
                    EXIT_TLS, f"the certificate of {where} is not the one that the join URL names"
                )
        return connection

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """One request. Raises JoinError."""
        connection = self._connect()
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise JoinError(EXIT_CONNECT, f"no answer from {self.target.address}: {error}") from error
        finally:
            connection.close()
        try:
            decoded = json.loads(text)
        except ValueError:
            decoded = {"error": text.strip()}
        if answer.status != 200:
            raise JoinError(EXIT_REFUSED, f"joining failed: {decoded.get('error', text)} ({answer.status})")
        return dict(decoded)


def join_worker(layout: Layout, target: Target, verify: bool) -> None:
    """Make this node a worker of the cluster that target belongs to. Raises JoinError."""
    if layout.is_worker:
        raise JoinError(EXIT_INPUT, "this node is a worker of a cluster already; run microk8s leave first")
    remote = Remote(target, verify)
    hostname = host.hostname()
    answer = remote.post(
        agent.JOIN_PATH,
        {"token": target.token, "hostname": hostname, "port": str(agent.PORT), "worker": True},
    )
    layout.set_lock("join-in-progress")
    layout.set_lock("no-cert-reissue")
    leaves = [
        certs.Leaf("kubelet", f"/O=system:nodes/CN=system:node:{hostname}",
                   certs.node_alt_names(hostname, host.addresses())),
        certs.Leaf("proxy", "/CN=system:kube-proxy"),
    ]  # fmt: skip
    signed = {}
    staging = layout.data / "certs" / "join"
    staging.mkdir(parents=True, exist_ok=True)
    for leaf in leaves:
        request = certs.create_request(staging, leaf)
        reply = remote.post(agent.SIGN_PATH, {"token": answer["sign_token"], "request": request})
        signed[leaf.name] = str(reply["certificate"])
    host.systemctl("stop", "apiserver-kicker", "kubelite", "k8s-dqlite")
    for name, certificate in signed.items():
        (staging / f"{name}.key").rename(layout.cert(f"{name}.key"))
        files.write(layout.cert(f"{name}.crt"), certificate)
    shutil.rmtree(staging)
    files.write(layout.cert("ca.remote.crt"), str(answer["ca"]))
    for name in ("kubelet.config", "proxy.config"):
        kubeconfig.create(layout, name, layout.cert("ca.remote.crt"))
    files.write(layout.provider, provider_text([str(entry) for entry in answer["control_planes"]]))
    files.write(layout.args("kubelet"), str(answer["kubelet_args"]))
    nodefiles.become_worker(layout)
    argsfile.update(layout.args("kubelet"), {"--client-ca-file": "${SNAP_DATA}/certs/ca.remote.crt"})
    if answer.get("cluster_cidr"):
        argsfile.update(layout.args("kube-proxy"), {"--cluster-cidr": str(answer["cluster_cidr"])})
    nodefiles.protect(layout)
    host.systemctl("start", "apiserver-proxy")
    host.systemctl("restart", "cluster-agent")
    host.systemctl("start", "kubelite")
    layout.set_lock("join-in-progress", False)


def provider_text(endpoints: list[str]) -> str:
    """The text of traefik/provider.yaml: where the API servers are."""
    lines = ["tcp:", "  services:", "    kube-apiserver:", "      loadBalancer:", "        servers:"]
    return "\n".join([*lines, *(f"        - address: {endpoint}" for endpoint in endpoints)]) + "\n"


def leave(layout: Layout) -> None:
    """Make this node a cluster of its own again. Raises JoinError."""
    if not layout.locked("no-cert-reissue"):
        raise JoinError(EXIT_INPUT, f"{socket.gethostname()} is not a node of a cluster")
    if not layout.is_worker:
        raise JoinError(
            3, "this node holds the only copy of the datastore: the cluster cannot go on without it"
        )
    host.systemctl("stop", "kubelite", "apiserver-proxy", "cluster-agent")
    containers.delete_all(layout)
    nodefiles.restore_arguments(layout, "kubelet", "kube-proxy", "kubelite")
    layout.provider.unlink(missing_ok=True)
    layout.cert("ca.remote.crt").unlink(missing_ok=True)
    nodefiles.become_control_plane(layout)
    for name in ("no-cert-reissue", "cni-loaded", "join-in-progress"):
        layout.set_lock(name, False)
    nodefiles.create_cluster_identity(layout)
    nodefiles.protect(layout)
    network.remove_links()
    host.systemctl("start", "k8s-dqlite", "kubelite", "cluster-agent", "apiserver-kicker")
