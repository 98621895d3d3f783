"""What a lab is: its name, nodes, addresses and files. Pure: nothing here touches the machine."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_NAME = "podwire"
DEFAULT_NODES = 3
MAX_NODES = 9
NETWORK = ipaddress.ip_network("172.30.0.0/16")
LABEL = "podwire.lab"
WORLD = "world"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")
_NODE = re.compile(r"(cp|worker)([0-9]+)")


@dataclass(frozen=True)
class Lab:
    """One lab. ``index`` (1 to 254) is its own on this machine: it names its links and its addresses."""

    name: str
    index: int
    nodes: tuple[str, ...]

    @property
    def state(self) -> Path:
        """Directory with everything the lab keeps: keys, kubeconfig, logs."""
        return state_directory(self.name)

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network((int(NETWORK.network_address) + (self.index << 8), 24))

    @property
    def gateway(self) -> str:
        """The machine's own address on the lab's bridge."""
        return str(self.subnet[1])

    @property
    def bridge(self) -> str:
        return f"pw{self.index}-br"

    def link(self, member: str) -> str:
        """The machine's end of a member's cable."""
        return f"pw{self.index}-{member}"

    def container(self, member: str) -> str:
        return f"podwire-{self.name}-{member}"

    def address(self, member: str) -> str:
        """The underlay address of a node or of the world."""
        return str(self.subnet[host_number(member)])

    @property
    def control_plane(self) -> tuple[str, ...]:
        return tuple(node for node in self.nodes if node.startswith("cp"))

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(node for node in self.nodes if not node.startswith("cp"))

    @property
    def members(self) -> tuple[str, ...]:
        """All containers of the lab: its nodes and the world outside the cluster."""
        return (*self.nodes, WORLD)


def state_directory(name: str) -> Path:
    return ROOT / (".lab" if name == DEFAULT_NAME else f".lab-{name}")


def check_name(name: str) -> str:
    """The name, if it can name containers and files; else ``LabError``."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} cannot name a lab", "Use 1 to 20 of a-z, 0-9 and - (not at the ends), as in LAB=second"
        )
    return name


def node_names(count: int) -> tuple[str, ...]:
    """One control plane node, the others workers."""
    if not 1 <= count <= MAX_NODES:
        raise LabError(
            f"a lab of {count} nodes is not possible", f"Set NODES to a number from 1 to {MAX_NODES}"
        )
    return ("cp1", *(f"worker{number}" for number in range(1, count)))


def parse_count(text: str | None) -> int | None:
    """The number of nodes asked for by ``NODES``; None when unset."""
    if not text:
        return None
    if not text.isdecimal():
        raise LabError(f"NODES={text} is not a number", f"Set NODES to a number from 1 to {MAX_NODES}")
    return int(text)


def host_number(member: str) -> int:
    """The last byte of a member's underlay address: world 2, cp1 11, worker1 21 and so on."""
    if member == WORLD:
        return 2
    match = _NODE.fullmatch(member)
    if not match:
        raise ValueError(f"{member!r} is not a lab node")
    return {"cp": 10, "worker": 20}[match[1]] + int(match[2])


def mac_address(index: int, host: int) -> str:
    """A locally administered address that depends on the place only, so neighbour caches stay true."""
    return f"02:70:77:{index:02x}:00:{host:02x}"
