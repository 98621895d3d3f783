"""Pod interfaces: a veth pair whose far end is created inside the pod's namespace."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

from podwire.net import sysctl
from podwire.net.netlink import NetlinkError, describe, is_absent, netlink
from podwire.net.netns import entered

SCOPE_LINK = 253
ONLINK = 4
NUD_PERMANENT = 0x80
LOOPBACK = 1
"""Index of the loopback device in every namespace."""


class LinkError(Exception):
    """An interface could not be created, configured or removed. The message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mac: str
    up: bool
    mtu: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class PairSpec:
    """A veth pair between the host and a pod."""

    host_name: str
    host_mac: str
    pod_name: str
    pod_mac: str
    mtu: int


def create_pair(spec: PairSpec, netns_fd: int) -> int:
    """Create the pair, both ends down; the pod's end never exists outside the pod's namespace.

    A pair of the same host name, left by an attempt that was cut short, is replaced. Returns the index of the
    host side. Raises LinkError; nothing is left behind then."""
    try:
        _add_pair(spec, netns_fd)
    except NetlinkError as error:
        if error.code != errno.EEXIST or not delete_link(spec.host_name):
            raise LinkError(_pair_failed(spec, error)) from error
        try:
            _add_pair(spec, netns_fd)
        except NetlinkError as again:
            raise LinkError(_pair_failed(spec, again)) from again
    try:
        return _index(netlink(), spec.host_name)
    except NetlinkError as error:
        raise LinkError(_pair_failed(spec, error)) from error


def _add_pair(spec: PairSpec, netns_fd: int) -> None:
    peer = {"ifname": spec.pod_name, "net_ns_fd": netns_fd, "address": spec.pod_mac, "mtu": spec.mtu}
    netlink().link("add", ifname=spec.host_name, kind="veth", address=spec.host_mac, mtu=spec.mtu, peer=peer)


def _pair_failed(spec: PairSpec, error: NetlinkError) -> str:
    return f"create veth pair {spec.host_name} - {spec.pod_name}: {describe(error)}"


def configure_pod_side(spec: PairSpec, netns_fd: int, *, address: str, gateway: str) -> None:
    """Inside the pod's namespace: loopback up, address /32, default route through the on-link gateway.

    IPv6 stays off on the interface: the datapath carries none yet, and every attempt would count as a drop.
    Raises LinkError or OSError."""
    with entered(netns_fd), IPRoute() as ipr:
        try:
            ipr.link("set", index=LOOPBACK, state="up")
            index = _index(ipr, spec.pod_name)
            sysctl.set_value(f"net/ipv6/conf/{spec.pod_name}/disable_ipv6", "1")
            ipr.addr("replace", index=index, address=address, prefixlen=32)
            ipr.link("set", index=index, state="up")
            ipr.route("replace", dst=f"{gateway}/32", scope=SCOPE_LINK, oif=index)
            ipr.route("replace", dst="default", gateway=gateway, oif=index, flags=ONLINK)
        except NetlinkError as error:
            raise LinkError(f"configure {spec.pod_name} in the pod's namespace: {describe(error)}") from error


def activate_host_side(index: int, *, address: str, pod_mac: str) -> None:
    """Bring the host's end up and tell the host where the pod's address is, so that nobody has to ask by ARP.

    Raises LinkError."""
    ipr = netlink()
    try:
        ipr.link("set", index=index, state="up")
        ipr.neigh("replace", dst=address, lladdr=pod_mac, ifindex=index, state=NUD_PERMANENT)
    except NetlinkError as error:
        raise LinkError(f"activate interface {index}: {describe(error)}") from error


def delete_link(name: str) -> bool:
    """Delete an interface by name, and its peer with it. Returns False when there was none.

    Raises LinkError."""
    ipr = netlink()
    try:
        ipr.link("del", index=_index(ipr, name))
    except NetlinkError as error:
        if is_absent(error):
            return False
        raise LinkError(f"delete interface {name}: {describe(error)}") from error
    return True


def find_link(name: str) -> Link | None:
    """The interface of that name in the agent's namespace."""
    try:
        found = netlink().link("get", ifname=name)
    except NetlinkError as error:
        if is_absent(error):
            return None
        raise LinkError(f"look up interface {name}: {describe(error)}") from error
    return _link(found[0]) if found else None


def list_links(prefix: str = "") -> list[Link]:
    """Interfaces of the agent's namespace whose name starts with ``prefix``."""
    links = [_link(message) for message in netlink().get_links()]
    return [link for link in links if link.name.startswith(prefix)]


def pod_side(netns_fd: int, name: str) -> tuple[Link, tuple[str, ...]] | None:
    """The pod's interface and its IPv4 addresses, or None when the namespace has no such interface."""
    with entered(netns_fd), IPRoute() as ipr:
        try:
            found = ipr.link("get", ifname=name)
        except NetlinkError as error:
            if is_absent(error):
                return None
            raise LinkError(f"look up {name} in the pod's namespace: {describe(error)}") from error
        link = _link(next(iter(found)))
        addresses = ipr.get_addr(family=2, index=link.index)
        return link, tuple(str(message.get("address")) for message in addresses)


def _index(ipr: Any, name: str) -> int:
    for message in ipr.link("get", ifname=name):
        return int(message["index"])
    raise NetlinkError(19, f"no interface {name}")


def _link(message: Any) -> Link:
    info = message.get("linkinfo")
    return Link(
        index=int(message["index"]),
        name=str(message.get("ifname")),
        mac=str(message.get("address") or ""),
        up=bool(message["flags"] & 1),
        mtu=int(message.get("mtu") or 0),
        kind=str(info.get("kind") or "") if info else "",
    )
