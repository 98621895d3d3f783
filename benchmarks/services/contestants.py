"""Nodes that serve services: by podwire alone, or by kube-proxy beside podwire's pod network.

Each has a client pod, a server pod and services of its own that lead there. When it is frozen, nothing of it
runs any more but the kernel: what was programmed stays, and nothing disturbs the others' measurements."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.agent.lab import Network, Pod

from . import api
from .net import resident_mib

CLIENT = Path(__file__).with_name("client.py")
SERVICES = 5
"""Services of one contestant. Rules are walked through in a random order: one service alone would be luck."""
# Every service has server ports of its own. With a shared one, a client's port that comes back for another
# service meets the server's TIME_WAIT of the first, with timestamps that may be older (they depend on the
# address dialled): behind kube-proxy the server refuses, and what is measured is the retransmission.
NETPERF_PORT = 12865
DATA_PORTS = range(12870, 12870 + SERVICES)
FIRST_PORTS = range(9001, 9001 + SERVICES)
SECOND_PORT = 9100
PATIENCE = 600.0


class Contestant(ABC):
    """One node."""

    kind: str
    settings: dict[str, Any]

    def __init__(self, network: Network, server: api.ApiServer, count: int, service_cidr: str) -> None:
        number = len(network.nodes) + 1
        self.count = count
        self.name = f"{self.kind} {count}"
        self.addresses = [f"10.202.250.{number * SERVICES + index}" for index in range(SERVICES)]
        self._api = server
        self.node = network.add_node(
            node_source="kubernetes",
            kubeconfig=str(server.kubeconfig),
            service_cidr=service_cidr,
            resync_interval=60.0,
            health_interval=30.0,
            policy={"enforcement": "never"},  # the pods have no objects: with policies they would be closed
            **self.settings,
        )
        assert self.node.pod_cidr
        server.create([api.node(self.node.name, self.node.address, self.node.pod_cidr)])
        self._processes: list[subprocess.Popen[Any]] = []
        self._connector: subprocess.Popen[str] | None = None
        self.client: Pod
        self.server: Pod

    @abstractmethod
    def start(self) -> dict[str, float]:
        """Bring everything in force; returns what it took: seconds and MiB."""

    @abstractmethod
    def freeze(self) -> None:
        """End the daemons; what they programmed stays."""

    def add_pods(self) -> None:
        """Add the pods and create the services that lead to the server pod."""
        self.server, self.client = self.node.add("server"), self.node.add("client")
        ports = map(str, (*FIRST_PORTS, SECOND_PORT))
        server = self.server.popen(sys.executable, str(CLIENT), "serve", *ports)
        self._processes.append(server)
        assert server.stdout
        server.stdout.readline()
        self._processes.append(self.server.popen("netserver", "-D", "-4", "-p", str(NETPERF_PORT)))
        objects = []
        for index, address in enumerate(self.addresses):
            path, value = api.service(self._service(index), address, 80)
            value["spec"]["ports"] += self._netperf_ports(index)
            objects += [(path, value), self._slice(index, FIRST_PORTS[index])]
        self._api.create(objects)

    def _service(self, index: int) -> str:
        return f"{self.node.name}-{index}"

    def _slice(self, index: int, port: int) -> tuple[str, dict[str, Any]]:
        path, value = api.endpoints(self._service(index), [self.server.address], port)
        value["ports"] += self._netperf_ports(index)
        return path, value

    @staticmethod
    def _netperf_ports(index: int) -> list[dict[str, Any]]:
        numbers = {"control": NETPERF_PORT, "data": DATA_PORTS[index]}
        return [{"name": name, "port": number, "protocol": "TCP"} for name, number in numbers.items()]

    # -- measurements ------------------------------------------------------------------------------

    def wait_for(self, wanted: int, change: Callable[[], None] = lambda: None) -> float:
        """Seconds from the beginning of ``change`` until a client gets an answer from port ``wanted``."""
        watcher = self.client.popen(
            sys.executable, str(CLIENT), "watch", self.addresses[-1], "80", str(wanted), str(PATIENCE)
        )
        assert watcher.stdout
        with watcher.stdout:
            watcher.stdout.readline()
            started = time.monotonic()
            change()
            answer = watcher.stdout.readline().strip()
        watcher.wait()
        if answer in ("", "never"):
            raise RuntimeError(f"{self.name}: the service did not answer from port {wanted} in {PATIENCE} s")
        return float(answer) - started

    def change_endpoint(self, port: int) -> float:
        """Seconds from the request to change an endpoint until a new connection follows it."""
        index = SERVICES - 1
        path, value = self._slice(index, port)

        def change() -> None:
            with self._api.connection() as call:
                call("PATCH", f"{path}/{self._service(index)}-1", {"ports": value["ports"]})

        return self.wait_for(port, change)

    def changes(self, count: int) -> list[float]:
        """Change an endpoint ``count`` times, pausing long enough for a proxy to come to rest."""
        times = []
        for number in range(count):
            time.sleep(2)
            times.append(self.change_endpoint((SECOND_PORT, FIRST_PORTS[-1])[number % 2]))
        return times

    def connect_microseconds(self, turn: int, count: int) -> float:
        """Median time of ``count`` calls of connect() to one of the services."""
        if self._connector is None:
            command = (sys.executable, str(CLIENT), "connect", "80")
            self._connector = subprocess.Popen(
                self.node.inside("ip", "netns", "exec", self.client.netns, *command),
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            self._processes.append(self._connector)
            assert self._connector.stdout
            self._connector.stdout.readline()
        assert self._connector.stdin
        assert self._connector.stdout
        address = self.addresses[turn % SERVICES]
        self._connector.stdin.write(f"{address} {count}\n")
        self._connector.stdin.flush()
        answer = self._connector.stdout.readline().strip()
        try:
            return float(answer)
        except ValueError as error:
            where = f"{self.name}, from {self.client.netns} to {address}"
            raise RuntimeError(f"{where}: {answer or 'the client ended'}") from error

    def netperf(self, round_number: int, seconds: int) -> float:
        """TCP_CRR transactions per second to a service: every one is a connection of its own."""
        address = self.addresses[round_number % SERVICES]
        done = self.client.exec(
            "netperf", "-P", "0", "-H", address, "-p", str(NETPERF_PORT), "-t", "TCP_CRR", "-l", str(seconds),
            "--", "-k", "TRANSACTION_RATE", "-P", f",{DATA_PORTS[round_number % SERVICES]}",
        )  # fmt: skip
        return float(done.stdout.rpartition("=")[2])

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()


class Podwire(Contestant):
    """podwire serves services in eBPF."""

    kind = "podwire"
    settings = {"kube_proxy_replacement": True}  # noqa: RUF012

    def start(self) -> dict[str, float]:
        self.node.load()
        started = time.monotonic()
        self.node.start(wait=False)
        status = self._wait_until_synced(started)
        seconds = time.monotonic() - started
        assert self.node.agent
        figures = {
            "seconds_to_program": seconds,
            "resident_mib": resident_mib(self.node.agent.pid),
            "frontends": float(status["frontends"]),
            "backends": float(status["backends"]),
        }
        self.add_pods()
        self.wait_for(FIRST_PORTS[-1])
        return figures

    def _wait_until_synced(self, started: float) -> dict[str, Any]:
        while True:
            assert self.node.agent
            if self.node.agent.poll() is not None or time.monotonic() - started > PATIENCE:
                raise RuntimeError(f"{self.name}: services are not in force:\n{self.node.log()[-3000:]}")
            with contextlib.suppress(OSError, KeyError, json.JSONDecodeError):
                services = self.node.get("/v1/status")["services"]
                if services["synced"]:
                    return dict(services)
            time.sleep(0.1)

    def freeze(self) -> None:
        self.node.kill(signal.SIGTERM)


class KubeProxy(Contestant):
    """kube-proxy serves services with iptables; pods, routes and policy-free forwarding are podwire's."""

    kind = "kube-proxy"
    settings = {"kube_proxy_replacement": False}  # noqa: RUF012
    program: Path
    path = ""
    """Where kube-proxy looks for iptables first."""

    def start(self) -> dict[str, float]:
        self.node.load()
        self.node.start()
        self.add_pods()
        log = (self.node.directory / "kube-proxy.log").open("wb")
        started = time.monotonic()
        with log:
            process = subprocess.Popen(
                [
                    "nsenter", f"--net=/run/netns/{self.node.netns}", str(self.program),
                    f"--kubeconfig={self._api.kubeconfig}", "--proxy-mode=iptables",
                    f"--hostname-override={self.node.name}", "--cluster-cidr=10.201.0.0/16",
                    "--conntrack-max-per-core=0", "--conntrack-min=0",
                ],
                stdout=log, stderr=log, env={**os.environ, "PATH": f"{self.path}:{os.environ['PATH']}"},
            )  # fmt: skip
        self._processes.append(process)
        self._proxy = process
        self.wait_for(FIRST_PORTS[-1])
        return {"seconds_to_program": time.monotonic() - started, "resident_mib": resident_mib(process.pid)}

    def freeze(self) -> None:
        self._proxy.terminate()
        self._proxy.wait()
        self.node.kill(signal.SIGTERM)


def median(values: list[float]) -> float:
    return statistics.median(values)
