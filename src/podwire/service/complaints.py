"""Problems of one object that come from the other objects and from the tables' sizes."""

from __future__ import annotations

from dataclasses import dataclass

from podwire.service.claims import Owner
from podwire.service.entries import Port
from podwire.service.model import ANY_ADDRESS, Flags, FrontendKey, Problem


@dataclass(frozen=True, slots=True)
class Limits:
    """What the datapath's tables hold. Leave room in the maps for what is being replaced: new entries are
    written before old ones are removed."""

    frontends: int = 65536
    backends: int = 196608
    """Entries of all lists together."""
    list_length: int = 65535
    """Entries of one list; the table counts them in 16 bits."""


class Complaints:
    """Adds such problems to a list."""

    def __init__(self, owner: Owner, problems: list[Problem]) -> None:
        self._owner = owner
        self._problems = problems

    def conflict(self, key: FrontendKey, flags: Flags, holder: Owner | None) -> None:
        who = "another port of the same object" if holder == self._owner else f"{holder}, which is older"
        self._add(
            "Conflict",
            f"{described(key, flags)} belongs to {who}: not served; choose another, or delete the other one",
        )

    def left_out(self, port: Port, limits: Limits) -> None:
        room = (
            f"one list holds {limits.list_length}"
            if port.too_long
            else f"the datapath's table holds {limits.backends} of all services together"
        )
        self._add(
            "TooManyBackends",
            f"port {port.compiled.name.name!r}: {port.no_room + port.too_long} backends are left out, "
            f"because {room}; the others are served; use fewer endpoints, "
            "or enlarge podwire_backends4 (podwire_map_entries)",
        )

    def no_room_for(self, key: FrontendKey, flags: Flags, limits: Limits) -> None:
        self._add(
            "TooManyFrontends",
            f"{described(key, flags)} is not served: the datapath holds {limits.frontends} frontends; "
            "delete services that nobody needs, or enlarge podwire_services4 (podwire_map_entries)",
        )

    def _add(self, reason: str, message: str) -> None:
        namespace, name = self._owner.name
        self._problems.append(Problem(namespace, name, reason, message, self._owner.kind))


def described(key: FrontendKey, flags: Flags) -> str:
    if key.address == ANY_ADDRESS:
        kind = "node port" if flags & Flags.NODE_PORT else "health-check node port"
        kind = "host port" if flags & Flags.HOST_PORT else kind
        return f"{kind} {key.port}/{key.protocol.name}"
    for flag, kind in (
        (Flags.CLUSTER_IP, "ClusterIP"),
        (Flags.EXTERNAL_IP, "external IP"),
        (Flags.LOAD_BALANCER, "load balancer address"),
    ):
        if flags & flag:
            return f"{kind} {key}"
    return f"host port {key}"
