"""One node for packet tests: devices, maps and loaded programs; packets go in, verdicts come out."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from podwire.bpf import BpfObject, Btf, Map, MapType, Program, RingBuffer, codec_for
from podwire.bpf.btf import Kind

OK, SHOT, REDIRECT = 0, 2, 7
LEGACY, EBPF = 0, 1
SEEN_DIRECT, SEEN_MASQUERADE = 0x5701, 0x5702
CLUSTER, SERVICE, NODE, LOCAL = 1, 2, 4, 8
HOST = 1
VIA_STACK, MASQUERADED, EBPF_ROUTING, ORIGINAL = 1, 2, 4, 8
STACK, PEER, NEIGH = 0, 1, 2
DIRECTIONS = {"from_pod": 2, "to_pod": 1, "from_netdev": 1, "to_netdev": 2}

EVENTS = {1: "podwire_event", 5: "podwire_verdict_event", 7: "podwire_translate_event"}
"""Records by their second byte, the type."""

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)

SIZES = {"podwire_ct4": 16384, "podwire_nat4": 16384}
"""Smaller than on a node: tables are allocated at once, for every test."""

HOST_MAC = "02:70:6f:64:77:31"
GATEWAY = "169.254.1.1"
NODE_IP = "192.0.2.1"
SECOND_IP = "198.18.0.1"
"""The node's address on its second device."""
OTHER_NODE = "192.0.2.2"
ROUTER = "192.0.2.254"
REMOTE_POD = "10.1.2.9"
WORLD = "203.0.113.7"
VIP = "10.152.183.10"
NAT_PORTS = (61000, 61999)


def number(address: str) -> int:
    return int(ipaddress.ip_address(address))


@dataclass(frozen=True)
class Pod:
    """A pod of the node: its address, MAC address, host-side veth and slot."""

    address: str
    mac: str
    device: str
    slot: int


POD_A = Pod("10.1.1.2", "0a:00:00:00:00:0a", "lxca", 1)
POD_B = Pod("10.1.1.3", "0a:00:00:00:00:0b", "lxcb", 2)
PODS = (POD_A, POD_B)


@dataclass(frozen=True)
class Result:
    """What became of one packet: verdict, bytes, counters that moved, events by kind."""

    verdict: int
    packet: Packet
    forwards: dict[str, int]
    drops: dict[tuple[int, int], int]
    events: list[dict[str, Any]] = field(default_factory=list)
    translations: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reason(self) -> int | None:
        """Reason of the drop, which counter and event must agree on; None when the packet passed."""
        if self.verdict != SHOT:
            assert not self.drops, f"counted as dropped, but the verdict is {self.verdict}"
            return None
        assert len(self.drops) == 1, f"a drop is counted once, under one reason: {self.drops}"
        ((reason, direction),) = self.drops
        assert [(event["reason"], event["direction"]) for event in self.events] == [(reason, direction)]
        return reason


@contextlib.contextmanager
def private_netns() -> Iterator[None]:
    """Move the calling thread into a network namespace of its own."""
    with Path("/proc/thread-self/ns/net").open() as home:
        if LIBC.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare: packet tests need root and network namespaces")
        try:
            yield
        finally:
            LIBC.setns(home.fileno(), CLONE_NEWNET)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def make_devices() -> None:
    """The node's two devices with their routes, and the host sides of two pods."""
    for name in ("eth0", "eth1", *(pod.device for pod in PODS)):
        ip("link", "add", name, "address", HOST_MAC, "type", "veth", "peer", "name", f"{name}p")
        ip("link", "set", f"{name}p", "up")
        ip("link", "set", name, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    ip("addr", "add", f"{NODE_IP}/24", "dev", "eth0")
    ip("addr", "add", f"{SECOND_IP}/24", "dev", "eth1")
    ip("route", "add", "10.1.2.0/24", "via", OTHER_NODE)
    ip("route", "add", "default", "via", ROUTER)
    for pod in PODS:
        ip("route", "add", f"{pod.address}/32", "dev", pod.device, "scope", "link")


def device_index(name: str) -> int:
    return socket.if_nametoindex(name)


@dataclass
class Loaded:
    """Programs and maps of one set of constants, loaded once and used by one node after the other: the
    verifier takes far longer than a test."""

    maps: dict[str, Map]
    programs: dict[str, Program]
    btf: Btf
    in_use: bool = True

    def empty(self) -> None:
        """Make the maps as they were after the load."""
        for found in self.maps.values():
            if found.info.type in (MapType.ARRAY, MapType.PERCPU_ARRAY):
                zero = bytes(found.info.value_size)
                if found.per_cpu:
                    found.set_many((key, zero) for key in range(found.info.max_entries))
                else:
                    found.set_many((key, zero) for key, value in found.items() if any(value.values()))
            elif found.info.type != MapType.RINGBUF:
                found.clear()


LOADED: dict[tuple[Any, ...], Loaded] = {}


class Node:
    """Loaded programs over shared maps, filled as the agent would fill them."""

    def __init__(self, objects: Path, *, replaced: dict[str, str] | None = None, **constants: Any) -> None:
        self.objects = objects
        self._stack = contextlib.ExitStack()
        self.maps: dict[str, Map] = {}
        self.programs: dict[str, Program] = {}
        self._wrappers: dict[tuple[str, int], tuple[Program, Map]] = {}
        self._events: list[bytes] = []
        if replaced:
            with BpfObject.open(objects / "full.bpf.o") as full:
                full.load()
                self.maps |= {name: full.map(other) for name, other in replaced.items()}
        self._loaded: Loaded | None = None
        if replaced:
            self.load(**constants)
        else:
            self._share((objects, *sorted(constants.items())), constants)
        self._ring = self._stack.enter_context(RingBuffer(self.maps["podwire_events"], self._events.append))
        for pod in PODS:
            self.add(pod)
        self.maps["podwire_slots"].set(0, {"revision": 1})
        self.maps["podwire_endpoints4"].set({"address": number(NODE_IP)}, {"flags": HOST})
        self.know("10.1.0.0/16", CLUSTER)
        self.know("10.1.1.0/24", CLUSTER | LOCAL)
        self.know("10.1.2.0/24", CLUSTER, next_hop=OTHER_NODE)
        self.know(f"{OTHER_NODE}/32", NODE)
        self.know("10.152.183.0/24", SERVICE)

    def _share(self, key: tuple[Any, ...], constants: dict[str, Any]) -> None:
        """Take over what an earlier node loaded with the same constants, or load for later ones."""
        loaded = LOADED.get(key)
        if loaded is None:
            self.load(**constants)
            loaded = LOADED[key] = Loaded(dict(self.maps), dict(self.programs), self.btf)
        elif loaded.in_use:
            self.load(**constants)
            return
        else:
            loaded.in_use = True
            loaded.empty()
            self.maps, self.programs, self.btf = dict(loaded.maps), dict(loaded.programs), loaded.btf
            with RingBuffer(self.maps["podwire_events"], lambda event: None) as leftovers:
                leftovers.consume()
        self._loaded = loaded

    def load(self, **constants: Any) -> None:
        """Load both objects over the maps that exist; a second call is what an upgrade does."""
        values = {
            "cfg_host_routing": EBPF,
            "cfg_node_ip4": number(NODE_IP),
            "cfg_gateway_ip4": number(GATEWAY),
            "cfg_host_mac": bytes.fromhex(HOST_MAC.replace(":", "")),
            "cfg_nat_port_min": NAT_PORTS[0],
            "cfg_nat_port_max": NAT_PORTS[1],
            "cfg_mtu": 1500,
            "cfg_masquerade": 1,
            "cfg_event_rate": 1_000_000,
        } | constants
        self._wrappers.clear()
        for name in ("endpoint", "host"):
            with BpfObject.open(self.objects / f"{name}.bpf.o") as loaded:
                loaded.set_constants(values)
                for map_name, entries in SIZES.items():
                    if map_name in loaded.declarations():
                        loaded.set_max_entries(map_name, entries)
                declared = list(loaded.declarations())
                shared = [map_name for map_name in declared if map_name in self.maps]
                fresh = [map_name for map_name in declared if map_name not in self.maps]
                for map_name in shared:
                    loaded.reuse_map(map_name, self.maps[map_name])
                loaded.load()
                self.maps |= {map_name: loaded.map(map_name) for map_name in fresh}
                for program in loaded.program_names:
                    self.programs[program.removeprefix("podwire_")] = loaded.program(program)
                self.btf = loaded.btf

    def close(self) -> None:
        self._stack.close()
        shared: set[int] = set()
        if self._loaded:
            self._loaded.in_use = False
            shared = {handle.fd for handle in (*self._loaded.maps.values(), *self._loaded.programs.values())}
        for handle in (*self.maps.values(), *self.programs.values()):
            if handle.fd not in shared:
                handle.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what the agent does -------------------------------------------------------------------------

    def add(self, pod: Pod, **values: int) -> None:
        """Make ``pod`` known (``values``: identity, policy, flags), then bump its revision: the order the
        datapath relies on."""
        self.maps["podwire_endpoints4"].set(
            {"address": number(pod.address)},
            {
                "ifindex": device_index(pod.device),
                "slot": pod.slot,
                "mac": bytes.fromhex(pod.mac.replace(":", "")),
                **values,
            },
        )
        self.bump(pod.slot)

    def remove(self, pod: Pod) -> None:
        self.maps["podwire_endpoints4"].delete({"address": number(pod.address)})
        self.bump(pod.slot)

    def bump(self, slot: int) -> None:
        slots = self.maps["podwire_slots"]
        slots.set(slot, {"revision": slots.get(slot)["revision"] + 1})

    def know(self, prefix: str, flags: int, next_hop: str = "0.0.0.0", identity: int = 0) -> None:
        network = ipaddress.ip_network(prefix)
        self.maps["podwire_ipcache4"].set(
            {"prefix_length": network.prefixlen, "address": int(network.network_address)},
            {"flags": flags, "next_hop": number(next_hop), "identity": identity},
        )
        self.bump(0)

    def leave_as(self, address: str, device: str = "eth1") -> None:
        """The node has ``address`` on ``device``: masqueraded packets leave that with it."""
        self.maps["podwire_endpoints4"].set({"address": number(address)}, {"flags": HOST})
        self.maps["podwire_masquerade4"].set({"ifindex": device_index(device)}, {"address": number(address)})

    # -- packets ---------------------------------------------------------------------------------------

    def from_pod(self, packet: Packet, pod: Pod = POD_A, **ctx: int) -> Result:
        return self.run("from_pod", packet, pod.device, **ctx)

    def to_pod(self, packet: Packet, pod: Pod = POD_A, *, seen: int = 0, **ctx: int) -> Result:
        return self.run("to_pod", packet, pod.device, seen=seen, **ctx)

    def from_netdev(self, packet: Packet, device: str = "eth0", **ctx: int) -> Result:
        return self.run("from_netdev", packet, device, **ctx)

    def to_netdev(self, packet: Packet, device: str = "eth0", *, seen: int = 0, **ctx: int) -> Result:
        return self.run("to_netdev", packet, device, seen=seen, **ctx)

    def run(self, name: str, packet: Packet, device: str, *, seen: int = 0, **ctx: int) -> Result:
        """Run one program on one packet. ``seen`` is what an earlier program left in tc_index."""
        program = self._seen_before(name, seen) if seen else self.programs[name]
        forwards, drops = self._forwards(), self._drops()
        self._drain()
        run = program.test_run(bytes(packet), ctx={"ifindex": device_index(device), **ctx})
        events = self._drain()
        return Result(
            run.retval,
            Ether(run.data),
            moved(forwards, self._forwards()),
            moved(drops, self._drops()),
            [event for event in events if event["type"] == 1],
            [event for event in events if event["type"] == 7],
            [event for event in events if event["type"] == 5],
        )

    def _seen_before(self, name: str, seen: int) -> Program:
        if (name, seen) not in self._wrappers:
            with BpfObject.open(self.objects / "seen.bpf.o") as wrapper:
                wrapper.set_constants({"cfg_seen": seen})
                wrapper.load()
                jump = wrapper.map("under_test")
                jump.set(0, self.programs[name].fd)
                self._wrappers[name, seen] = (wrapper.program("seen_before"), jump)
        return self._wrappers[name, seen][0]

    # -- what the maps say -----------------------------------------------------------------------------

    def enum(self, name: str) -> dict[int, str]:
        """Values of an enum of the datapath, by its type information."""
        found = self.btf.find(name, Kind.ENUM)
        assert found is not None, f"enum {name} is not in the object's type information"
        return {value: label for label, value in found.values.items()}

    def ct(self, *flow: Any) -> dict[str, Any] | None:
        """Conntrack entry of (source, destination, protocol, source port, destination port)."""
        return self.maps["podwire_ct4"].get(tuple4(*flow))

    def nat(self, *flow: Any) -> dict[str, Any] | None:
        return self.maps["podwire_nat4"].get(tuple4(*flow))

    def _forwards(self) -> dict[str, int]:
        names = self.enum("podwire_forward")
        return {
            names[kind].removeprefix("PODWIRE_FORWARD_"): sum(cpu["packets"] for cpu in values)
            for kind, values in self.maps["podwire_forwards"].items()
        }

    def _drops(self) -> dict[tuple[int, int], int]:
        return {
            (key["reason"], key["direction"]): sum(cpu["packets"] for cpu in values)
            for key, values in self.maps["podwire_metrics"].items()
        }

    def _drain(self) -> list[dict[str, Any]]:
        self._ring.consume()
        decoded = []
        for event in self._events:
            found = self.btf.find(EVENTS[event[1]], Kind.STRUCT)
            assert found is not None
            decoded.append(codec_for(self.btf, found.id).decode(event))
        self._events.clear()
        return decoded


def moved(before: dict[Any, int], after: dict[Any, int]) -> dict[Any, int]:
    return {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key, 0)}


def tuple4(
    source: str, destination: str, protocol: int, source_port: int, destination_port: int
) -> dict[str, int]:
    return {
        "source_address": number(source),
        "destination_address": number(destination),
        "source_port": source_port,
        "destination_port": destination_port,
        "protocol": protocol,
    }
