"""The cluster agent: port 25000, where other nodes join and get their certificates signed."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from . import api, argsfile, certs, files, host, network, nodefiles, tokens
from .layout import Layout

PORT = 25000
JOIN_PATH = "/cluster/api/v2.0/join"
SIGN_PATH = "/cluster/api/v1.0/sign-cert"
SIGN_TOKENS = "certs-request-tokens.txt"
SIGN_TTL = 300
HANDSHAKE_LIMIT = 10.0
LARGEST_REQUEST = 1 << 20
# What cluster.yaml lists before the first join.
LOCAL_BACKEND = ["127.0.0.1:19001"]


class RefusedError(Exception):
    """A request that is answered with an error: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Agent:
    """What the agent does, apart from HTTP. Joins are handled one at a time."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.joining = threading.Lock()

    def join(self, request: dict[str, Any], own: str, peer: str) -> dict[str, Any]:
        """Let a worker join; returns what it needs to become one. own, peer: the connection's addresses."""
        if self.layout.is_worker:
            raise RefusedError(501, "this node is a worker: join through a control-plane node")
        if not tokens.redeem(self.layout, str(request.get("token", ""))):
            raise RefusedError(500, "invalid token")
        if not self.layout.locked("ha-cluster"):
            raise RefusedError(501, "not possible to join: this is not an HA MicroK8s cluster")
        if str(request.get("port")) != str(PORT):
            raise RefusedError(502, f"the port of the cluster agent has to be set to {PORT}")
        if peer in host.addresses():
            raise RefusedError(503, f"the joining node has the same address ({peer}) as the node it contacts")
        if not request.get("worker"):
            raise RefusedError(501, "the datastore of this snap has one member: join with --worker")
        with self.joining:
            self.first_join(own)
            return self.answer(own)

    def first_join(self, own: str) -> None:
        """The first join opens the datastore to others and puts the default network back in order."""
        self.layout.set_lock("no-cert-reissue")
        if nodefiles.backend_addresses(self.layout) != LOCAL_BACKEND:
            return
        print(f"first join: the datastore moves from 127.0.0.1 to {own}", flush=True)
        files.write(self.layout.backend / "cluster.yaml", nodefiles.backend_members([own]))
        host.systemctl("restart", "k8s-dqlite")
        if not self.layout.cni_manifest.exists():
            print(
                f"warning: {self.layout.cni_manifest} is gone: the default network is not applied", flush=True
            )
            return
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                network.apply(self.layout)
                return
            except network.NetworkError as error:
                print(error, file=sys.stderr, flush=True)
                time.sleep(1)

    def answer(self, own: str) -> dict[str, Any]:
        token = tokens.create()
        path = self.layout.credential(SIGN_TOKENS)
        files.write(path, tokens.add(files.read(path), token, time.time() + SIGN_TTL))
        proxy_args = files.read(self.layout.args("kube-proxy"))
        return {
            "ca": self.layout.cert("ca.crt").read_text(),
            "sign_token": token,
            "kubelet_args": files.read(self.layout.args("kubelet")),
            "cluster_cidr": argsfile.get(proxy_args, "--cluster-cidr") or "",
            "control_planes": [f"{own}:16443"],
        }

    def sign(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sign the request of a node that has just joined: for a kubelet or a kube-proxy, nothing else."""
        path_token = str(request.get("token", ""))
        good, rest = tokens.consume(files.read(self.layout.credential(SIGN_TOKENS)), path_token, time.time())
        files.write(self.layout.credential(SIGN_TOKENS), rest)
        if not good:
            raise RefusedError(500, "invalid token")
        text = str(request.get("request", ""))
        try:
            subject = certs.request_subject(text).replace(" ", "")
            if subject != "CN=system:kube-proxy" and not subject.startswith("O=system:nodes,CN=system:node:"):
                raise RefusedError(403, f"will not sign a certificate for {subject}")
            return {"certificate": certs.sign_request(self.layout.cert(""), text)}
        except certs.CertificateError as error:
            raise RefusedError(500, str(error)) from error


class Handler(BaseHTTPRequestHandler):
    """HTTP for Agent."""

    server: Server

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200, {"status": "OK"})
        else:
            self.reply(404, {"error": "no such page"})

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if length > LARGEST_REQUEST:
                raise RefusedError(413, "request too large")
            request = json.loads(self.rfile.read(length) or b"{}")
            if not isinstance(request, dict):
                raise RefusedError(400, "the request is not a JSON object")
            self.reply(200, self.act(request))
        except RefusedError as refused:
            self.reply(refused.status, {"error": str(refused)})
        except ValueError as error:
            self.reply(400, {"error": f"the request is not JSON: {error}"})
        except (OSError, api.ApiError) as error:
            self.reply(500, {"error": str(error)})

    def act(self, request: dict[str, Any]) -> dict[str, Any]:
        agent = self.server.agent
        if self.path == JOIN_PATH:
            return agent.join(request, self.connection.getsockname()[0], self.client_address[0])
        if self.path == SIGN_PATH:
            return agent.sign(request)
        raise RefusedError(404, "no such page")

    def reply(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, form: str, *values: object) -> None:
        print(f"{self.client_address[0]} {form % values}", flush=True)


class Server(ThreadingHTTPServer):
    """TLS is spoken in the connection's own thread, so that a silent client holds up nobody."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], agent: Agent, context: ssl.SSLContext) -> None:
        super().__init__(address, Handler)
        self.agent = agent
        self.context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        assert isinstance(request, socket.socket)
        request.settimeout(HANDSHAKE_LIMIT)
        try:
            connection = self.context.wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError):
            return
        connection.settimeout(120)
        try:
            super().finish_request(connection, client_address)
        finally:
            connection.close()


def run(layout: Layout, bind: str, certfile: str, keyfile: str) -> int:
    """Serve until killed."""
    address, _, port = bind.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile)
    with Server((address, int(port)), Agent(layout), context) as server:
        print(f"listening on {bind}", flush=True)
        server.serve_forever()
    return 0
