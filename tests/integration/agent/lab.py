"""A small network of nodes in namespaces: real links, real datapath, real agents, no Kubernetes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from podwire.datapath import Datapath, DatapathConfig, ServiceSettings, cgroup
from podwire.net import netns

REPOSITORY = Path(__file__).resolve().parents[3]
CLUSTER_CIDR = "10.201.0.0/16"
SERVICE_CIDR = "10.202.0.0/24"


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def eventually(question: Any, seconds: float = 10.0, pause: float = 0.05) -> Any:
    """The first true answer of ``question``; fails with its last answer when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(pause)


def replace_file(path: Path, text: str) -> None:
    """A reader sees the old or the new content."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.rename(path)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Network:
    """Nodes on one switch. ``prefix`` makes every name on the machine unique."""

    def __init__(self, prefix: str, directory: Path, objects: Path, cni: Path) -> None:
        self.prefix = prefix
        self.directory = directory
        self.objects = objects
        self.cni = cni
        self.nodes: list[Node] = []
        self.switch = f"{prefix}sw"
        run("ip", "netns", "add", self.switch)
        self._in_switch("ip", "link", "add", "br0", "type", "bridge")
        self._in_switch("ip", "addr", "add", "10.200.0.254/24", "dev", "br0")
        self._in_switch("ip", "link", "set", "br0", "up")
        self._in_switch("ip", "link", "set", "lo", "up")

    def _in_switch(self, *command: str) -> None:
        run("ip", "netns", "exec", self.switch, *command)

    def add_node(self, **settings: Any) -> Node:
        number = len(self.nodes) + 1
        node = Node(self, number, settings)
        self.nodes.append(node)
        run(
            "ip", "link", "add", "eth0", "netns", node.netns, "type", "veth",
            "peer", "name", f"port{number}", "netns", self.switch,
        )  # fmt: skip
        self._in_switch("ip", "link", "set", f"port{number}", "master", "br0", "up")
        node.configure()
        return node

    def write_nodes(self) -> None:
        """Tell every agent of all nodes, as the Kubernetes API would."""
        value = [
            {
                "name": n.name,
                "podCIDR": n.pod_cidr,
                "addresses": [n.address],
                "healthAddress": n.health_address,
            }
            for n in self.nodes
        ]
        for node in self.nodes:
            replace_file(node.node_file, yaml.safe_dump(value))

    def write_services(self, *objects: dict[str, Any]) -> None:
        """Tell every agent of all Services and EndpointSlices, as the Kubernetes API would."""
        for node in self.nodes:
            replace_file(node.service_file, json.dumps(objects))

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        run("ip", "netns", "del", self.switch, check=False)


class Node:
    """One host: namespace, BPF file system, datapath, agent."""

    def __init__(self, network: Network, number: int, settings: Mapping[str, Any]) -> None:
        self.network = network
        self.number = number
        self.name = f"node{number}"
        self.netns = f"{network.prefix}n{number}"
        self.address = f"10.200.0.{number}"
        self.pod_cidr: str | None = settings.pop("pod_cidr", f"10.201.{number}.0/24")
        self.health_address = self.pod_cidr and self.pod_cidr.rpartition(".")[0] + ".1"
        self.map_entries: dict[str, int] = settings.pop("map_entries", {})
        self.settings = settings
        self.directory = network.directory / self.name
        self.state = self.directory / "state"
        self.run_dir = self.directory / "run"
        self.bpffs = self.directory / "bpf"
        self.node_file = self.directory / "nodes.yaml"
        self.service_file = self.directory / "services.json"
        self.config_file = self.directory / "agent.yaml"
        self.log_file = self.directory / "agent.log"
        self.agent: subprocess.Popen[bytes] | None = None
        self.pods: dict[str, Pod] = {}
        for path in (self.state, self.run_dir, self.bpffs):
            path.mkdir(parents=True)
        run("mount", "-t", "bpf", "bpf", str(self.bpffs))
        run("ip", "netns", "add", self.netns)
        self.cgroup = self._make_cgroup() if settings.get("kube_proxy_replacement") else None
        self.datapath = Datapath(self.bpffs / "podwire", self.run_dir, self.state, cgroup=self.cgroup)

    def _make_cgroup(self) -> Path:
        """A control group for this node's processes: the machine's others must not notice its services."""
        path = cgroup.root() / self.netns
        path.mkdir()
        return path

    def inside(self, *command: str) -> tuple[str, ...]:
        """The command, started in this node's control group."""
        if self.cgroup is None:
            return command
        return ("sh", "-c", f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"', "sh", *command)

    def configure(self) -> None:
        self.exec("ip", "link", "set", "lo", "up")
        self.exec("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.exec("ip", "link", "set", "eth0", "up")
        self.exec("ip", "route", "add", "default", "via", "10.200.0.254")
        config = {
            "node_name": self.name,
            "node_source": "file",
            "node_file": str(self.node_file),
            "service_file": str(self.service_file),
            "cluster_cidrs": [CLUSTER_CIDR],
            "service_cidr": SERVICE_CIDR,
            "state_dir": str(self.state),
            "run_dir": str(self.run_dir),
            "bpffs": str(self.bpffs / "podwire"),
            "cgroup_root": str(self.cgroup) if self.cgroup else None,
            "health_netns": f"{self.netns}h",
            "health_interval": 1.0,
            "resync_interval": 2.0,
            **self.settings,
        }
        self.config_file.write_text(yaml.safe_dump(config))
        self.network.write_nodes()

    def exec(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        # Not `ip netns exec`: that mounts another /sys, and the programs' pins would be out of sight.
        return run(*self.inside("nsenter", f"--net=/run/netns/{self.netns}", *command), check=check)

    def load(self, mode: str = "ebpf", **services: Any) -> None:
        """Load the datapath, as the role does before it starts the agent. ``services``: settings of services;
        they are on when the agent is to keep them."""
        enabled = bool(self.settings.get("kube_proxy_replacement"))
        config = DatapathConfig(
            node_ip=self.address,
            host_routing=mode,
            map_entries=self.map_entries,
            services=ServiceSettings(**{"enabled": enabled, **services}),
        )
        fd = netns.open_netns(f"/run/netns/{self.netns}")
        with netns.closing(fd), netns.entered(fd):
            self.datapath.apply(config, self.network.objects, ["eth0"])

    def start(self, *, wait: bool = True) -> None:
        """Start the agent; with ``wait`` until it is ready."""
        with self.log_file.open("ab") as log:
            self.agent = subprocess.Popen(
                [
                    "nsenter", f"--net=/run/netns/{self.netns}",
                    sys.executable, "-m", "podwire.agent.main", "--config", str(self.config_file),
                ],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
            )  # fmt: skip
        if wait:
            eventually(self.ready, 20)

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the agent with a signal; returns its exit status."""
        assert self.agent
        self.agent.send_signal(number)
        code = self.agent.wait(timeout=20)
        self.agent = None
        return code

    def ready(self) -> bool:
        return self.reachable() and bool(self.get("/v1/status")["ready"])

    def reachable(self) -> bool:
        """Does the agent answer?"""
        assert self.agent
        assert self.agent.poll() is None, f"the agent ended:\n{self.log()}"
        try:
            self.get("/v1/status")
        except OSError:
            return False
        return True

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = UnixConnection(self.run_dir / "agent.sock")
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def get(self, path: str) -> Any:
        return self.request("GET", path)[1]

    # -- pods ----------------------------------------------------------------------------------

    def new_netns(self, name: str) -> str:
        """A pod's namespace, as the container runtime makes it."""
        full = f"{self.netns}{name}"
        run("ip", "netns", "add", full)
        self.pods[name] = Pod(self, name, full)
        return f"/run/netns/{full}"

    def cni_config(self, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
        return {
            "cniVersion": version,
            "name": "podwire",
            "type": "podwire-cni",
            "agentSocket": str(self.run_dir / "cni.sock"),
            "queueDir": str(self.state / "cni-queue"),
            **more,
        }

    def cni_process(self, command: str, name: str, config: dict[str, Any]) -> subprocess.Popen[str]:
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"c{self.netns}{name}",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/run/netns/{self.netns}{name}",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}",
        }
        process = subprocess.Popen(
            [str(self.network.cni)], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin
        process.stdin.write(json.dumps(config))
        process.stdin.close()
        return process

    def cni(self, command: str, name: str, **config: Any) -> tuple[int, Any]:
        """Call the real plugin; returns its exit status and what it printed."""
        return finish(self.cni_process(command, name, self.cni_config(**config)))

    def add(self, name: str, **config: Any) -> Pod:
        """A pod; ``config`` is added to the plugin's configuration."""
        self.new_netns(name)
        code, result = self.cni("ADD", name, **config)
        assert code == 0, result
        pod = self.pods[name]
        pod.address = result["ips"][0]["address"].partition("/")[0]
        pod.result = result
        return pod

    def delete(self, name: str) -> None:
        code, result = self.cni("DEL", name)
        assert (code, result) == (0, None)
        self.remove_netns(name)

    def remove_netns(self, name: str) -> None:
        self.pods.pop(name).remove()

    def links(self) -> set[str]:
        found = json.loads(self.exec("ip", "-j", "link", "show").stdout)
        return {item["ifname"] for item in found if item["ifname"].startswith("lxc")}

    def routes(self) -> set[str]:
        return {
            item["dst"] for item in json.loads(self.exec("ip", "-j", "route", "show", "proto", "112").stdout)
        }

    def local_addresses(self) -> set[str]:
        """Addresses the datapath knows as pods of this node."""
        from podwire.agent.tables import EndpointsTable

        table = EndpointsTable(lambda: self.datapath.map("podwire_endpoints4"))
        return {address for address, value in table.read().items() if not value.host}

    def records(self) -> set[str]:
        return {path.stem for path in (self.state / "endpoints").glob("*.json")}

    def close(self) -> None:
        if self.agent and self.agent.poll() is None:
            self.kill(signal.SIGTERM)
        for name in list(self.pods):
            self.remove_netns(name)
        run("ip", "netns", "del", f"{self.netns}h", check=False)
        run("ip", "netns", "del", self.netns, check=False)
        run("umount", str(self.bpffs))
        if self.cgroup:
            self.cgroup.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)


class Pod:
    """A pod: a namespace that something can run in."""

    def __init__(self, node: Node, name: str, full: str) -> None:
        self.node = node
        self.name = name
        self.netns = full
        self.address = ""
        self.result: dict[str, Any] = {}

    def exec(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(*self.node.inside("ip", "netns", "exec", self.netns, *command), check=check)

    def popen(self, *command: str, in_cgroup: bool = True) -> subprocess.Popen[str]:
        """Start something; outside the node's control group its sockets know no services."""
        command = ("ip", "netns", "exec", self.netns, *command)
        return subprocess.Popen(
            self.node.inside(*command) if in_cgroup else command,
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def ping(self, address: str, count: int = 1) -> bool:
        return self.exec("ping", "-n", "-c", str(count), "-W", "1", address, check=False).returncode == 0

    def remove(self) -> None:
        run("ip", "netns", "del", self.netns, check=False)


def finish(process: subprocess.Popen[str]) -> tuple[int, Any]:
    assert process.stdout
    with process.stdout:
        text = process.stdout.read()
    return process.wait(timeout=60), json.loads(text) if text.strip() else None
