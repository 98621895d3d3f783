"""Two nodes, their pods, a router and the world, as network namespaces with the real datapath attached.

::

    pod a, pod b - node1 -+                                     +- world (198.51.100.2)
                          +- router (br0, 10.77.0.254), MTU 1400
    pod c --------- node2 +

Sockets belong to the namespace they were made in: a test makes them inside and uses them from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from podwire.datapath import GATEWAY_IP, HOST_MAC, Datapath, DatapathConfig, ServiceSettings, cgroup

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
ENDPOINT_HOST = 1
CLUSTER, SERVICE, NODE, LOCAL = 1, 2, 4, 8

ROUTER_LAN, ROUTER_WORLD, WORLD = "10.77.0.254", "198.51.100.1", "198.51.100.2"
VIP, NODE_PORT = "10.152.183.10", 30080
WORLD_MTU = 1400
SECOND_IP, UPLINK, BEYOND = "198.18.0.1", "198.18.0.2", "203.0.113.10"
"""node1's address on its second device, the router there, and a host behind it that knows no other way."""


@dataclass(frozen=True)
class Node:
    name: str
    ip: str
    cidr: str


@dataclass(frozen=True)
class Pod:
    name: str
    node: Node
    ip: str
    slot: int

    @property
    def device(self) -> str:
        return f"lxc{self.name}"

    @property
    def mac(self) -> str:
        return f"0a:00:00:00:00:{self.slot:02x}"


NODE1 = Node("node1", "10.77.0.1", "10.1.1.0/24")
NODE2 = Node("node2", "10.77.0.2", "10.1.2.0/24")
POD_A = Pod("a", NODE1, "10.1.1.2", 1)
POD_B = Pod("b", NODE1, "10.1.1.3", 2)
POD_C = Pod("c", NODE2, "10.1.2.2", 1)
NODES = (NODE1, NODE2)
PODS = (POD_A, POD_B, POD_C)

ADDRESSES = (
    {node.name: node.ip for node in NODES}
    | {pod.name: pod.ip for pod in PODS}
    | {
        "world": WORLD,
        "beyond": BEYOND,
    }
)


def number(address: str) -> int:
    return int(ipaddress.ip_address(address))


class Cluster:
    """Make it, start the datapaths, use it, close it: nothing stays behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"dp{uuid.uuid4().hex[:6]}"
        self._namespaces: list[str] = []
        self.datapaths: dict[str, Datapath] = {}
        self.configs: dict[str, DatapathConfig] = {}
        self._cgroup: Path | None = None
        self._devices: dict[str, list[str]] = {node.name: ["eth0"] for node in NODES}

    # -- namespaces ------------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return f"/run/netns/{self._prefix}-{name}"

    def run(self, name: str, *command: str, check: bool = True) -> str:
        """Run a command inside a namespace (without a new /sys, unlike ``ip netns exec``)."""
        full = ["nsenter", f"--net={self.path(name)}", *command]
        done = subprocess.run(full, check=False, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(full)}: {done.stderr or done.stdout}")
        return done.stdout

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """The calling thread is in the namespace."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(self.path(name)).open() as there:
            if LIBC.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.path(name)}")
            try:
                yield
            finally:
                LIBC.setns(home.fileno(), CLONE_NEWNET)

    def socket(self, name: str, kind: int, protocol: int = 0, *, timeout: float = 5) -> socket.socket:
        with self.inside(name):
            made = socket.socket(socket.AF_INET, kind, protocol)
        made.settimeout(timeout)
        return made

    @property
    def places(self) -> list[str]:
        """Whoever has one of ADDRESSES here."""
        return [name for name in ADDRESSES if name in self._namespaces]

    # -- building --------------------------------------------------------------------------------------

    def build(self) -> None:
        for name in ("router", "world", *(node.name for node in NODES), *(pod.name for pod in PODS)):
            subprocess.run(["ip", "netns", "add", f"{self._prefix}-{name}"], check=True)
            self._namespaces.append(name)
            self.run(name, "ip", "link", "set", "lo", "up")
        self._build_router()
        for node in NODES:
            self._build_node(node)
        for pod in PODS:
            self._build_pod(pod)

    def _link(self, one: str, one_name: str, other: str, other_name: str) -> None:
        self.run(one, "ip", "link", "add", one_name, "type", "veth", "peer", "name", other_name, "netns",
                 f"{self._prefix}-{other}")  # fmt: skip
        self.run(one, "ip", "link", "set", one_name, "up")
        self.run(other, "ip", "link", "set", other_name, "up")

    def _build_router(self) -> None:
        self.run("router", "ip", "link", "add", "br0", "type", "bridge")
        self.run("router", "ip", "link", "set", "br0", "up")
        self.run("router", "ip", "addr", "add", f"{ROUTER_LAN}/24", "dev", "br0")
        self._link("router", "world", "world", "eth0")
        self.run("router", "ip", "addr", "add", f"{ROUTER_WORLD}/24", "dev", "world")
        # On the router alone, so that neither end can know it from its own device.
        self.run("router", "ip", "route", "add", f"{WORLD}/32", "dev", "world", "mtu", "lock", str(WORLD_MTU))
        self.run("world", "ip", "addr", "add", f"{WORLD}/24", "dev", "eth0")
        self.run("world", "ip", "route", "add", "default", "via", ROUTER_WORLD)
        self.set("router", "net/ipv4/ip_forward", "1")

    def _build_node(self, node: Node) -> None:
        self._link("router", node.name, node.name, "eth0")
        self.run("router", "ip", "link", "set", node.name, "master", "br0")
        self.run(node.name, "ip", "addr", "add", f"{node.ip}/24", "dev", "eth0")
        self.run(node.name, "ip", "route", "add", "default", "via", ROUTER_LAN)
        self.set(node.name, "net/ipv4/ip_forward", "1")
        for other in NODES:
            if other is not node:
                self.run(node.name, "ip", "route", "add", other.cidr, "via", other.ip)
        rules = (
            "table ip counted { chain forward { type filter hook forward priority 0; counter; }; }\n"
            "table ip proxy {\n"
            "  chain prerouting { type nat hook prerouting priority dstnat; }\n"
            "  chain output { type nat hook output priority -100; }\n"
            "  chain postrouting {\n"
            "    type nat hook postrouting priority srcnat; meta mark 0x4000 masquerade;\n"
            "  }\n"
            "}\n"
        )
        self.nft(node.name, rules)

    def _build_pod(self, pod: Pod) -> None:
        host = pod.node.name
        self._link(host, pod.device, pod.name, "eth0")
        self.run(host, "ip", "link", "set", pod.device, "address", HOST_MAC)
        self.run(
            host, "ip", "route", "add", f"{pod.ip}/32", "dev", pod.device, "scope", "link", "src", pod.node.ip
        )
        self.run(pod.name, "ip", "link", "set", "eth0", "address", pod.mac)
        self.run(pod.name, "ip", "addr", "add", f"{pod.ip}/32", "dev", "eth0")
        self.run(pod.name, "ip", "route", "add", GATEWAY_IP, "dev", "eth0", "scope", "link")
        self.run(pod.name, "ip", "route", "add", "default", "via", GATEWAY_IP)

    def add_second_device(self) -> None:
        """Give node1 a device of its own towards a network that no other machine is in: before ``start``."""
        subprocess.run(["ip", "netns", "add", f"{self._prefix}-beyond"], check=True)
        self._namespaces.append("beyond")
        self.run("beyond", "ip", "link", "set", "lo", "up")
        self._link("node1", "eth1", "beyond", "eth0")
        self.run("node1", "ip", "addr", "add", f"{SECOND_IP}/24", "dev", "eth1")
        self.run("node1", "ip", "route", "add", f"{BEYOND}/32", "via", UPLINK)
        self.run("beyond", "ip", "addr", "add", f"{UPLINK}/24", "dev", "eth0")
        self.run("beyond", "ip", "addr", "add", f"{BEYOND}/32", "dev", "lo")
        link = str(ipaddress.ip_network(f"{UPLINK}/24", strict=False))
        self.run("beyond", "ip", "route", "replace", link, "dev", "eth0", "src", BEYOND)
        self._devices["node1"].append("eth1")

    def set(self, name: str, key: str, value: str) -> None:
        with self.inside(name):
            (Path("/proc/sys") / key).write_text(value)

    def get(self, name: str, key: str) -> str:
        with self.inside(name):
            return (Path("/proc/sys") / key).read_text().strip()

    def nft(self, name: str, rules: str) -> None:
        full = ["nsenter", f"--net={self.path(name)}", "nft", "-f", "-"]
        subprocess.run(full, input=rules, text=True, check=True, capture_output=True)

    # -- the datapath ----------------------------------------------------------------------------------

    def start(
        self, objects: Path, *, mode: str, attach: str, services: bool = False, dsr: bool = False
    ) -> None:
        """Load and attach everywhere, then tell each node what an agent would.

        ``services``: in packets alone; the control group whose sockets are served has no member.
        """
        settings = ServiceSettings(enabled=services, dsr=dsr)
        if services:
            self._cgroup = cgroup.root() / self._prefix
            self._cgroup.mkdir()
        for node in NODES:
            root = self._directory / node.name
            with self.inside(node.name):
                datapath = Datapath(root / "bpf" / "podwire", root / "run", root / "state", self._cgroup)
                config = DatapathConfig(
                    node.ip, host_routing=mode, attach=attach, map_entries=SIZES, services=settings
                )
                datapath.apply(config, objects, self._devices[node.name])
                self.datapaths[node.name] = datapath
                self.configs[node.name] = config
                self._fill(node, datapath)

    def _fill(self, node: Node, datapath: Datapath) -> None:
        endpoints, ipcache = datapath.map("podwire_endpoints4"), datapath.map("podwire_ipcache4")

        def know(prefix: str, flags: int, next_hop: str = "0.0.0.0") -> None:
            network = ipaddress.ip_network(prefix)
            key = {"prefix_length": network.prefixlen, "address": int(network.network_address)}
            ipcache.set(key, {"flags": flags, "next_hop": number(next_hop)})

        endpoints.set({"address": number(node.ip)}, {"flags": ENDPOINT_HOST})
        know(node.cidr, CLUSTER | LOCAL)
        know("10.152.183.0/24", SERVICE)
        for other in NODES:
            if other is not node:
                know(other.cidr, CLUSTER, other.ip)
                know(f"{other.ip}/32", NODE)
        for pod in PODS:
            if pod.node is node:
                ifindex = socket.if_nametoindex(pod.device)
                mac = bytes.fromhex(pod.mac.replace(":", ""))
                endpoints.set({"address": number(pod.ip)}, {"ifindex": ifindex, "slot": pod.slot, "mac": mac})
                datapath.map("podwire_slots").set(pod.slot, {"revision": 1})
                datapath.attach_endpoint(ifindex)

    def reload(self, objects: Path, **settings: int) -> None:
        """Replace every node's programs with ones that have other settings."""
        for node in NODES:
            with self.inside(node.name):
                self.configs[node.name] = replace(self.configs[node.name], **settings)
                changes = self.datapaths[node.name].apply(
                    self.configs[node.name], objects, self._devices[node.name]
                )
                assert changes.changed

    def switch(self, mode: str) -> None:
        """Switch every node's host routing."""
        for node in NODES:
            with self.inside(node.name):
                assert self.datapaths[node.name].set_host_routing(mode).after == mode

    # -- looking ---------------------------------------------------------------------------------------

    def drops(self, node: str) -> dict[int, int]:
        """Dropped packets by reason."""
        result: dict[int, int] = {}
        for key, values in self.datapaths[node].map("podwire_metrics").items():
            result[key["reason"]] = result.get(key["reason"], 0) + sum(cpu["packets"] for cpu in values)
        return result

    def forwards(self, node: str, kind: int) -> tuple[int, int]:
        """Packets and bytes of one kind of delivery."""
        values = self.datapaths[node].map("podwire_forwards").get(kind)
        return sum(cpu["packets"] for cpu in values), sum(cpu["bytes"] for cpu in values)

    def forwarded_by_netfilter(self, node: str) -> int:
        """Packets that the FORWARD hook saw."""
        text = self.run(node, "nft", "list", "chain", "ip", "counted", "forward")
        return int(text.split("counter packets ")[1].split()[0])

    def close(self) -> None:
        for name, datapath in self.datapaths.items():
            with self.inside(name):
                datapath.remove()
        for name in self._namespaces:
            subprocess.run(["ip", "netns", "del", f"{self._prefix}-{name}"], check=True)
        for mount in self._directory.glob("*/bpf"):
            if os.path.ismount(mount):
                subprocess.run(["umount", mount], check=True)
        if self._cgroup:
            self._cgroup.rmdir()


SIZES = {"podwire_ct4": 16384, "podwire_nat4": 16384}
