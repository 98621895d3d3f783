"""One node for tests of sockets: a host and two pods as network namespaces, backends that say who they are,
and a control group whose sockets the real programs serve.

The packet programs are attached to a device that leads nowhere: what arrives was translated in the socket.
The frontends' addresses belong to the host, where a server answers "untranslated".
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from podwire.bpf import BpfObject, RingBuffer, codec_for
from podwire.bpf.btf import Kind
from podwire.datapath import Changes, Datapath, DatapathConfig, ServiceSettings
from podwire.net import netns
from tests.control_group import ControlGroup

NODE_IP, OTHER_NODE_IP = "192.0.2.1", "192.0.2.2"
POD_IP, SECOND_POD_IP = "10.9.1.2", "10.9.2.2"
VIP, EXTERNAL_IP = "10.96.0.10", "203.0.113.10"
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
NODE_PORT_FLAG, SOURCE_RANGES_FLAG = 1 << 1, 1 << 8
HOST, NODE = 1, 4
MAPS = {"podwire_ct4": 1024, "podwire_nat4": 1024, "podwire_sock_reverse4": 4096}

Address = tuple[str, int]


def number(address: str) -> int:
    return int(ipaddress.ip_address(address))


class Server:
    """Answers every connection and datagram with its name and the client's address."""

    def __init__(self, name: str, namespace: str, address: str, port: int) -> None:
        self.name = name
        self.at: Address = (address, port)
        descriptor = netns.open_netns(namespace)
        with netns.closing(descriptor), netns.entered(descriptor):
            self._stream = socket.create_server(self.at, backlog=64)
            self._datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagram.bind(self.at)
        self._threads = [threading.Thread(target=task) for task in (self._accept, self._echo)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, (client, _) = self._stream.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection, client), daemon=True).start()

    def _converse(self, connection: socket.socket, client: str) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(64):
                connection.send(f"{self.name} {client}".encode())

    def _echo(self) -> None:
        while True:
            try:
                _, client = self._datagram.recvfrom(64)
            except OSError:
                return
            if client is None:  # shut down
                return
            self._datagram.sendto(f"{self.name} {client[0]}".encode(), client)

    def close(self) -> None:
        self._stream.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._datagram.shutdown(socket.SHUT_RDWR)  # wakes the thread, though it says ENOTCONN
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()
        self._stream.close()
        self._datagram.close()


class SocketNode:
    """Make it, start it, use it, close it: nothing stays behind."""

    def __init__(self, directory: Path, objects: Path) -> None:
        self._directory = directory
        self.objects = objects
        self._prefix = f"sk{uuid.uuid4().hex[:6]}"
        self._stack = contextlib.ExitStack()
        self._lists = itertools.count(1)
        self._current: dict[tuple[str, int, int], tuple[int, int]] = {}
        self.config = DatapathConfig(
            NODE_IP, map_entries=MAPS, event_rate=1_000_000, services=ServiceSettings(enabled=True)
        )
        self._build()
        self.cgroup = self._stack.enter_context(ControlGroup())
        self.datapath = Datapath(
            directory / "bpf" / "podwire", directory / "run", directory / "state", cgroup=self.cgroup.path
        )
        self._stack.callback(self._unload)
        self.apply()
        endpoints, ipcache = self.datapath.map("podwire_endpoints4"), self.datapath.map("podwire_ipcache4")
        endpoints.set({"address": number(NODE_IP)}, {"flags": HOST})
        endpoints.set({"address": number(POD_IP)}, {"slot": 1})
        ipcache.set({"prefix_length": 32, "address": number(OTHER_NODE_IP)}, {"flags": NODE})
        self.backends = [self.server(f"backend{i}", "pod", POD_IP, 8000 + i) for i in range(3)]

    # -- the machine -----------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return f"/run/netns/{self._prefix}-{name}"

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """The calling thread is in the namespace."""
        descriptor = netns.open_netns(self.path(name))
        with netns.closing(descriptor), netns.entered(descriptor):
            yield

    def _ip(self, name: str, *arguments: str) -> None:
        subprocess.run(["ip", "-n", f"{self._prefix}-{name}", *arguments], check=True, capture_output=True)

    def _build(self) -> None:
        for name in ("host", "pod", "second"):
            subprocess.run(["ip", "netns", "add", f"{self._prefix}-{name}"], check=True)
            self._stack.callback(subprocess.run, ["ip", "netns", "del", f"{self._prefix}-{name}"], check=True)
            self._ip(name, "link", "set", "lo", "up")
        for name, address in (("pod", POD_IP), ("second", SECOND_POD_IP)):
            gateway = address.rpartition(".")[0] + ".1"
            there = ["netns", f"{self._prefix}-{name}"]
            self._ip("host", "link", "add", name, "type", "veth", "peer", "name", "eth0", *there)
            for where, device, own in (("host", name, gateway), (name, "eth0", address)):
                self._ip(where, "link", "set", device, "up")
                self._ip(where, "addr", "add", f"{own}/24", "dev", device)
            self._ip(name, "route", "add", "default", "via", gateway)
        self._ip("host", "link", "add", "dev0", "type", "veth", "peer", "name", "dev0p")
        self._ip("host", "link", "set", "dev0", "up")
        for address in (NODE_IP, OTHER_NODE_IP, VIP, EXTERNAL_IP):
            self._ip("host", "addr", "add", f"{address}/32", "dev", "lo")
        with self.inside("host"):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def server(self, name: str, namespace: str, address: str, port: int) -> Server:
        made = Server(name, self.path(namespace), address, port)
        self._stack.callback(made.close)
        return made

    def client(
        self,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        where: str = "second",
        *,
        family: socket.AddressFamily = socket.AF_INET,
        timeout: float = 20.0,
    ) -> socket.socket:
        """A socket of a process in the control group."""
        return self.cgroup.socket(kind, family=family, netns=self.path(where), timeout=timeout)

    # -- the datapath ----------------------------------------------------------------------------------

    def apply(self) -> Changes:
        with self.inside("host"):
            return self.datapath.apply(self.config, self.objects, ["dev0"])

    def _unload(self) -> None:
        with self.inside("host"):
            self.datapath.remove()
        mount = self._directory / "bpf"
        if os.path.ismount(mount):
            subprocess.run(["umount", mount], check=True)

    def service(
        self,
        address: str,
        port: int,
        backends: Sequence[Server],
        *,
        protocol: int = TCP,
        number_: int = 1,
        **fields: int,
    ) -> int:
        """Make a frontend point to a new list, as the agent would; returns the list."""
        listed = next(self._lists)
        for index, backend in enumerate(backends):
            at = {"address": number(backend.at[0]), "port": backend.at[1]}
            self.datapath.map("podwire_backends4").set({"list": listed, "index": index}, at)
            self.datapath.map("podwire_affinity_backends4").set({"service": number_, **at}, 1)
        key = {"address": number(address), "port": port, "protocol": protocol}
        value = {"id": number_, "list": listed, "count": len(backends), **fields}
        self.datapath.map("podwire_services4").set(key, value)
        old, count = self._current.get((address, port, protocol), (0, 0))
        for index in range(count):
            self.datapath.map("podwire_backends4").delete({"list": old, "index": index})
        self._current[address, port, protocol] = (listed, len(backends))
        members = self.datapath.map("podwire_affinity_backends4")
        wanted = {backend.at for backend in backends}
        for member in list(members.keys()):
            at = (str(ipaddress.IPv4Address(member["address"])), member["port"])
            if member["service"] == number_ and at not in wanted:
                members.delete(member)
        return listed

    @contextlib.contextmanager
    def events(self) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Collect translation events: the function gives those since the last call."""
        records: list[bytes] = []
        ring = self.datapath.map("podwire_events")
        with BpfObject.open(self.objects / "socket.bpf.o") as opened:
            found = opened.btf.find("podwire_translate_event", Kind.STRUCT)
            assert found is not None
            codec = codec_for(opened.btf, found.id)
        with RingBuffer(ring, records.append) as reader:
            reader.consume()
            records.clear()

            def read() -> list[dict[str, Any]]:
                reader.consume()
                taken, records[:] = list(records), []
                return [codec.decode(record) for record in taken]

            yield read

    def forget(self) -> None:
        """No services, and no socket ever asked for one."""
        for name in (
            "podwire_services4", "podwire_backends4", "podwire_affinity4", "podwire_affinity_backends4",
            "podwire_source_ranges4", "podwire_sock_reverse4", "podwire_sock_forward4",
        ):  # fmt: skip
            self.datapath.map(name).clear()
        self._current.clear()

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> SocketNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ask(client: socket.socket) -> str:
    """Who is at the other end of a connected socket?"""
    client.send(b"?")
    return client.recv(64).decode().split()[0]


def ask_at(client: socket.socket, address: Address) -> tuple[str, Address]:
    """Send a datagram there; who answers, and from where, as the socket is told?"""
    client.sendto(b"?", address)
    answer, source = client.recvfrom(64)
    return answer.decode().split()[0], (source[0], source[1])
