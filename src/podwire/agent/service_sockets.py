"""End UDP sockets whose service connected them to a backend that left: their owners get an error and connect
again.

Only sockets that were translated in the socket are meant. What they are connected to is remembered by the
datapath; a socket that somebody connected to a pod's own address is none of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from podwire.agent.service_flows import Stale
from podwire.agent.service_tables import number
from podwire.bpf import Map
from podwire.net import netns, sockets
from podwire.service.model import Backend, Protocol

log = logging.getLogger(__name__)

REVERSE = "podwire_sock_reverse4"


@dataclass(frozen=True, slots=True)
class Ended:
    """How many sockets were ended; ``reason`` says why not all could be."""

    sockets: int = 0
    reason: str = ""


def end_sockets(reverse: Map, stale: Stale, namespaces: Iterable[str]) -> Ended:
    """End the sockets of stale flows in the caller's network namespace and in those at these paths; what
    is gone is passed over. Blocks; raises BpfError or OSError."""
    targets: Collection[sockets.Target] = {(backend.address, backend.port) for _, backend in stale.backends}
    if not targets:
        return Ended()

    def of_service(found: sockets.UdpSocket) -> bool:
        address, port = found.remote
        key = {
            "cookie": found.cookie, "address": number(address), "port": port, "protocol": int(Protocol.UDP),
        }  # fmt: skip
        known = reverse.get(key)
        return known is not None and (known["service"], Backend(address, port)) in stale.backends

    count, reason = 0, ""
    for fd in _opened(namespaces):
        done = sockets.destroy_udp(targets, netns_fd=fd, select=of_service)
        count += done.sockets
        reason = reason or done.reason
    return Ended(count, reason)


def _opened(paths: Iterable[str]) -> Iterator[int | None]:
    """The caller's own namespace, then the others, each open while it is used."""
    yield None
    for path in paths:
        try:
            fd = netns.open_netns(path)
        except netns.NetnsError:
            continue  # the pod is gone, and its sockets with it
        with netns.closing(fd):
            yield fd
