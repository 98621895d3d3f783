"""The imperative shell around the desired state: links, maps and routes of this node. All calls block."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any

from podwire.agent.desired import Desired, changed_slots, endpoint_sysctls
from podwire.agent.identity_ipcache import Covering, Ipcache4
from podwire.agent.model import HOST_PREFIX, Endpoint, PolicyAssignment, Standing
from podwire.agent.reconcile import Reconciler, Report
from podwire.agent.tables import EndpointsTable, IpcacheTable, MasqueradeTable, Slots
from podwire.bpf import Map
from podwire.datapath import GATEWAY_IP, HOST_MAC, Datapath
from podwire.net import links, netns, sysctl
from podwire.net.rcu import Grace
from podwire.net.routes import RouteTable

log = logging.getLogger(__name__)


class Kernel:
    """What the agent changes in the kernel, through one object so that order and locking live in one
    place."""

    def __init__(self, datapath: Datapath, mtu: int, grace: Grace | None = None) -> None:
        """``grace`` shortens the kernel's wait at every attach; None leaves it as it is."""
        self.datapath = datapath
        self._grace = grace
        self.mtu = mtu
        self.slots = Slots(lambda: self._map("podwire_slots"))
        self._endpoints = EndpointsTable(lambda: self._map("podwire_endpoints4"))
        self._judging = False
        self._reconciler = Reconciler(
            [
                IpcacheTable(lambda: self._map("podwire_ipcache4")),
                self._endpoints,
                MasqueradeTable(lambda: self._map("podwire_masquerade4")),
                sysctl.SysctlTable(),
                RouteTable(),
            ]
        )
        # The datapath's own lock is a file and waits by polling: threads of this process queue up here
        # instead.
        self._attach_lock = threading.Lock()

    def _map(self, name: str) -> Map:
        return self.datapath.map(name)

    # -- endpoints ---------------------------------------------------------------------------------

    def plumb(self, spec: links.PairSpec, netns_fd: int, address: str) -> int:
        """Create and configure a pod's interface with the programs attached before its first packet.

        Until the maps know the address, the programs drop what the pod sends. Returns the index of the host
        side. Raises LinkError, NetnsError, DatapathError or OSError; nothing is left behind then."""
        index = links.create_pair(spec, netns_fd)
        try:
            for name, value in endpoint_sysctls(spec.host_name).items():
                sysctl.set_value(name, value)
            self.attach(index)
            links.activate_host_side(index, address=address, pod_mac=spec.pod_mac)
            links.configure_pod_side(spec, netns_fd, address=address, gateway=GATEWAY_IP)
        except BaseException:
            with contextlib.suppress(links.LinkError):
                links.delete_link(spec.host_name)
            raise
        return index

    def attach(self, index: int) -> None:
        """Attach the datapath to a pod's host side; repeating it is harmless. Raises DatapathError."""
        with self._attach_lock, self.hurried():
            self.datapath.attach_endpoint(index)

    def hurried(self) -> contextlib.AbstractContextManager[None]:
        """Have the kernel wait less, where that is allowed, while the block runs."""
        return self._grace.hurried() if self._grace else contextlib.nullcontext()

    def unplumb(self, host_name: str, index: int) -> None:
        """Remove a pod's interface; one that is gone is fine. Raises LinkError or DatapathError."""
        links.delete_link(host_name)
        if index:
            with self._attach_lock:
                self.datapath.detach_endpoint(index)  # drops the pin, which would keep a dead link

    def pair_spec(self, host_name: str, ifname: str, mac: str) -> links.PairSpec:
        return links.PairSpec(host_name, HOST_MAC, ifname, mac, self.mtu)

    def intact(self, endpoint: Endpoint) -> str:  # noqa: PLR0911 - one line per question
        """Why the interface of an endpoint is not as it should be; empty when all is well. Costs a few ms."""
        host = links.find_link(endpoint.host_ifname)
        if host is None or host.index != endpoint.host_ifindex:
            return f"host interface {endpoint.host_ifname} is gone"
        if not host.up:
            return f"host interface {endpoint.host_ifname} is down"
        try:
            fd = netns.open_netns(endpoint.netns)
        except netns.NetnsError as error:
            return str(error)
        with netns.closing(fd):
            found = links.pod_side(fd, endpoint.ifname)
        if found is None:
            return f"pod interface {endpoint.ifname} is gone"
        if endpoint.address not in found[1]:
            return f"pod interface {endpoint.ifname} lost its address {endpoint.address}"
        if {"from_pod", "to_pod"} - self.datapath.attached().get(endpoint.host_ifindex, set()):
            return f"the datapath is not attached to {endpoint.host_ifname}"
        return ""

    def own_links(self) -> dict[str, links.Link]:
        """Host sides of pods' interfaces, by name. Recognised by name, kind and our fixed MAC address."""
        return {
            link.name: link
            for link in links.list_links(HOST_PREFIX)
            if link.kind == "veth" and link.mac == HOST_MAC
        }

    def judges(self) -> bool:
        """Do the loaded programs know of policies? Raises BpfError or NotInstalled."""
        return "policy" in self._map("podwire_endpoints4").value.fields

    def standings(self) -> dict[str, Standing]:
        """As whom local addresses send and what judges them, as the datapath has it. Raises BpfError."""
        return {
            address: Standing(value.identity, PolicyAssignment(value.policy, value.audit))
            for address, value in self._endpoints.read().items()
            if not value.host
        }

    # -- desired state -----------------------------------------------------------------------------

    def apply(
        self, want: Desired, *, full: bool = False, nodes_known: bool = True, identities_known: bool = True
    ) -> Report:
        """Make maps, sysctls and routes match, then move the revisions of what changed. Callers take turns.

        While the nodes are unknown, what leads to them stays: not knowing is no reason to cut traffic. While
        the identities of other nodes' endpoints are, what an earlier agent knew of them stays."""
        keep = set() if identities_known else {"ipcache4"}
        if not nodes_known:
            keep = {"ipcache4", "routes"}
        report = self._reconciler.run(
            {
                "ipcache4": want.ipcache4,
                "endpoints4": want.endpoints4,
                "masquerade4": want.masquerade4,
                "sysctls": want.sysctls,
                "routes": want.routes,
            },
            full=full,
            keep=frozenset(keep),
        )
        judging = any(value.policy for value in want.endpoints4.values())
        self.slots.bump(stale_slots(report, want.ipcache4, judging=judging or self._judging))
        self._judging = judging
        for (table, key), reason in report.failures.items():
            log.error("%s %s: %s", table, key, reason)
        return report

    def invalidate_all(self) -> None:
        """Make every cached decision stale: whoever ran before may have died between a change and its
        revision."""
        self.slots.bump_all()


def stale_slots(report: Report, ipcache: Mapping[str, Ipcache4], *, judging: bool) -> set[int]:
    """Slots whose cached decisions rest on what a run changed. Slot 0 vouches for ipcache and routes.

    ``judging``: an endpoint here has, or had, a policy. Without one, only the way to an address matters."""
    slots: set[int] = set()
    for _, before, after in report.touched.get("endpoints4", ()):
        slots |= changed_slots(before, after)
    gateways: list[Any] = [
        route
        for _, before, after in report.touched.get("routes", ())
        for route in (before, after)
        if route is not None and route.gateway
    ]
    touched = report.touched.get("ipcache4", ())
    if gateways or (touched and (judging or _routing_changed(touched, ipcache))):
        slots.add(0)
    return slots


def _routing_changed(touched: Sequence[tuple[str, Any, Any]], ipcache: Mapping[str, Ipcache4]) -> bool:
    """Is any address reached in another way? An entry that came or went may say the same as the one around
    it."""
    around = Covering(ipcache)
    for key, before, after in touched:
        if before is None or after is None:
            address, _, length = key.partition("/")
            other = around.find(int(IPv4Address(address)), int(length) - 1)
            before, after = before or other, after or other  # noqa: PLW2901 - what it stands beside
        if before is None or after is None or before.routing != after.routing:
            return True
    return False
