"""Where programs are attached. A hook's name is part of its pin's name: ``links/IFINDEX-HOOK`` for devices,
``links/cgroup-HOOK`` for sockets."""

from __future__ import annotations

from dataclasses import dataclass

from podwire.bpf import SocketHook, TcHook, Tcx


@dataclass(frozen=True, slots=True)
class Hook:
    """``program`` is the program's name in the objects and below ``progs/``."""

    name: str
    program: str
    tcx: Tcx
    tc: TcHook


FROM_POD = Hook("from_pod", "podwire_from_pod", Tcx.INGRESS, TcHook.INGRESS)
TO_POD = Hook("to_pod", "podwire_to_pod", Tcx.EGRESS, TcHook.EGRESS)
FROM_NETDEV = Hook("from_netdev", "podwire_from_netdev", Tcx.INGRESS, TcHook.INGRESS)
TO_NETDEV = Hook("to_netdev", "podwire_to_netdev", Tcx.EGRESS, TcHook.EGRESS)

# The order in which a device or endpoint is attached: towards first, so that what comes back is expected.
ENDPOINT_HOOKS = (TO_POD, FROM_POD)
DEVICE_HOOKS = (TO_NETDEV, FROM_NETDEV)
HOOKS = {hook.name: hook for hook in (*ENDPOINT_HOOKS, *DEVICE_HOOKS)}
PROGRAMS = {hook.program: hook for hook in HOOKS.values()}


@dataclass(frozen=True, slots=True)
class CgroupHook:
    """``program`` is the program's name in the objects and below ``progs/``."""

    name: str
    program: str
    where: SocketHook


# What shows frontends comes before what translates: a translated socket never sees its backend's address.
CGROUP_HOOKS = tuple(
    CgroupHook(where.name.lower(), f"podwire_{where.name.lower()}", where)
    for where in (
        SocketHook.GETPEERNAME4,
        SocketHook.GETPEERNAME6,
        SocketHook.RECVMSG4,
        SocketHook.RECVMSG6,
        SocketHook.SENDMSG4,
        SocketHook.CONNECT4,
        SocketHook.CONNECT6,
    )
)
SOCKET_PROGRAMS = {hook.program: hook for hook in CGROUP_HOOKS}
