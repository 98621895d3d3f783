"""A Kubernetes API without a cluster: etcd and kube-apiserver in a network namespace, and a quick client."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

TOKEN = "benchmark"  # noqa: S105 - of an API server that lives for minutes in a namespace of its own
PORT = 6443
PATIENCE = 90.0
STREAMS = 8
SERVICES = "/api/v1/namespaces/bench/services"
SLICES = "/apis/discovery.k8s.io/v1beta1/namespaces/bench/endpointslices"


class ApiServer:
    """One API server, reachable at ``address`` in namespace ``netns`` and on its network."""

    def __init__(self, programs: Path, directory: Path, netns: str, address: str, service_cidr: str) -> None:
        self.address = address
        self.kubeconfig = directory / "kubeconfig"
        self._programs = programs
        self._directory = directory
        self._netns = netns
        self._service_cidr = service_cidr
        self._processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir()

    def start(self) -> None:
        """Start both and wait until the API answers."""
        here = self._directory
        key = here / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        (here / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        etcd = "http://127.0.0.1:2379"
        self._run(
            "etcd", f"--data-dir={here / 'etcd'}", "--unsafe-no-fsync", f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}", "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=error",
        )  # fmt: skip
        self._run(
            "kube-apiserver", f"--etcd-servers={etcd}", f"--cert-dir={here / 'certificates'}",
            f"--secure-port={PORT}", f"--bind-address={self.address}", f"--advertise-address={self.address}",
            f"--service-cluster-ip-range={self._service_cidr}", "--authorization-mode=AlwaysAllow",
            f"--token-auth-file={here / 'tokens.csv'}", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--service-account-issuer=https://kubernetes.default",
            "--disable-admission-plugins=ServiceAccount", "--profiling=false", "--event-ttl=5m",
        )  # fmt: skip
        self._wait()
        self._write_kubeconfig()

    def _run(self, program: str, *arguments: str) -> None:
        log = (self._directory / f"{program}.log").open("wb")
        with log:
            self._processes.append(
                subprocess.Popen(
                    ["nsenter", f"--net=/run/netns/{self._netns}", str(self._programs / program), *arguments],
                    stdout=log, stderr=log,
                )
            )  # fmt: skip

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with self.connection() as call:
                    call("GET", "/readyz")
                return
            except (OSError, ApiError, http.client.HTTPException) as error:
                ended = [process for process in self._processes if process.poll() is not None]
                if ended or time.monotonic() > deadline:
                    raise ApiError(f"the API server does not answer ({error}):\n{self._logs()}") from error
            time.sleep(0.2)

    def _logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self._directory.glob("*.log"))
        )

    def _write_kubeconfig(self) -> None:
        cluster = {
            "server": f"https://{self.address}:{PORT}",
            "certificate-authority": str(self._directory / "certificates" / "apiserver.crt"),
        }
        value = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "benchmark", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "benchmark", "context": {"cluster": "benchmark", "user": "admin"}}],
            "current-context": "benchmark",
        }
        self.kubeconfig.write_text(yaml.safe_dump(value))

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        """A function (method, path, body) that asks over one connection and returns the decoded answer."""
        from .net import socket_in

        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # our own server, in our own namespace
        connection = http.client.HTTPSConnection(self.address, PORT, timeout=60, context=context)
        raw = socket_in(self._netns, (self.address, PORT))
        connection.sock = context.wrap_socket(raw, server_hostname=self.address)

        def call(method: str, path: str, body: Any = None) -> Any:
            content = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": content}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            if response.status >= 300:
                raise ApiError(f"{method} {path}: HTTP {response.status}: {text[:300]!r}")
            return json.loads(text) if text[:1] == b"{" else text

        try:
            yield call
        finally:
            connection.close()

    def create(self, objects: Iterable[tuple[str, dict[str, Any]]]) -> float:
        """Create (path, object) pairs over several connections; returns how many seconds that took."""
        pending = list(objects)
        started = time.perf_counter()

        def work(part: list[tuple[str, dict[str, Any]]]) -> None:
            with self.connection() as call:
                for path, value in part:
                    call("POST", path, value)

        with ThreadPoolExecutor(STREAMS) as pool:
            list(pool.map(work, (pending[number::STREAMS] for number in range(STREAMS))))
        return time.perf_counter() - started

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


class ApiError(RuntimeError):
    """The API server refused or is not there."""


# -- objects ---------------------------------------------------------------------------------------


def node(name: str, address: str, pod_cidr: str) -> tuple[str, dict[str, Any]]:
    return "/api/v1/nodes", {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def service(name: str, address: str, port: int) -> tuple[str, dict[str, Any]]:
    """A ClusterIP service without selector."""
    spec = {"clusterIP": address, "ports": [{"name": "main", "port": port, "protocol": "TCP"}]}
    return SERVICES, {"metadata": {"name": name}, "spec": spec}


def endpoints(service_name: str, addresses: list[str], port: int) -> tuple[str, dict[str, Any]]:
    """The slice of a service, whose endpoints nobody else manages."""
    return SLICES, {
        "metadata": {"name": f"{service_name}-1", "labels": {"kubernetes.io/service-name": service_name}},
        "addressType": "IPv4",
        "ports": [{"name": "main", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }
