"""What this node knows of who is who: the input of its policies, and the hooks that policies come back by.

For the part that keeps policies:

- ``IdentityView.world`` is the present ``World``, an immutable value; a part that did not change is the same
  object as in the World before (``new.identities is old.identities``), so differences are cheap to find.
- ``IdentityView.listen(callback)``: called without arguments after every change, in a thread of the agent's.
  It must not block: set a flag and read ``world`` in a thread of your own.
- ``PolicyKeeper`` is what that part offers in return. The agent asks it for every local endpoint whenever it
  writes the endpoints' map. None means "not known yet": an endpoint that was never given a policy is closed
  (policy number 1) until then, one that has a policy keeps it, together with the identity it was made for.
- ``Identities`` (``podwire.agent.identities``) has the calls in the other direction:
  ``apply_policies()`` writes the assignments into the kernel and bumps the slots of what changed (blocks; a
  policy number that no assignment names any more is free when it returns);
  ``number_cidrs(prefixes)`` gives prefixes that rules name local identities, which nobody uses yet;
  ``set_cidrs(prefixes)`` has the ipcache know exactly these when ``apply_policies`` (or any later write)
  returns;
  ``set_status(observed, revision, problems)`` publishes what this node enforces.

The order that makes a change atomic: ``set_cidrs`` -> write the new policy map -> let ``assignment``
answer with its number -> ``apply_policies()`` -> free the old number -> ``set_status``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import NamedTuple, Protocol

from podwire.agent.model import PolicyAssignment
from podwire.policy.model import Labels

NamedPorts = frozenset[tuple[str, int, int]]
"""(name in lower case, IP protocol number, port) of containers."""


class LocalEndpoint(NamedTuple):
    """An endpoint of this node."""

    key: str
    """``Endpoint.key`` of the agent's model."""
    namespace: str
    pod: str
    """Empty for the health endpoint."""
    address: str
    identity: int
    """0: its labels are not known yet. 4: the node's health endpoint. 5: it started without them (closed)."""
    labels: Labels
    """Those of the identity."""
    named_ports: NamedPorts


class RemoteEndpoint(NamedTuple):
    """An endpoint of another node, as that node's agent publishes it."""

    node: str
    namespace: str
    pod: str
    address: str
    identity: int
    named_ports: NamedPorts


@dataclass(frozen=True, slots=True)
class World:
    """Everything that policies are worked out from, apart from the policies, services and CIDR identities."""

    identities: Mapping[int, Labels] = field(default_factory=dict)
    """Number -> labels: reserved ones (1 carries ``reserved:kube-apiserver`` where this node runs the API
    server) and those of the cluster. Of CIDR identities only those in ``api_servers``."""
    named_ports: Mapping[int, NamedPorts] = field(default_factory=dict)
    """Identity -> named ports of its endpoints, on every node. Identities without any are left out."""
    local: Mapping[str, LocalEndpoint] = field(default_factory=dict)
    """By key."""
    remote: Mapping[str, RemoteEndpoint] = field(default_factory=dict)
    """By address."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """Addresses of nodes -> reserved identity: 1 this node, 6 others, 7 API servers."""
    api_servers: Mapping[IPv4Network, int] = field(default_factory=dict)
    """API servers outside the cluster: CIDR identities, to be added to those that policies ask for. Their
    labels are in ``identities``, with ``reserved:kube-apiserver``."""
    complete: bool = False
    """Namespaces, pods of this node, identities and endpoints of other nodes were each known completely once.
    Before, nothing may be concluded from what is absent."""


class PolicyKeeper(Protocol):
    """Who knows the policy of each endpoint of this node. Called from any thread; must not block."""

    def assignment(self, key: str, identity: int) -> PolicyAssignment | None:
        """The policy map of the endpoint ``key`` as one of ``identity``; None while it is not known."""
        ...


class IdentityView:
    """The present World, and who wants to hear of the next."""

    def __init__(self) -> None:
        self._world = World()
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._guard = threading.Lock()

    @property
    def world(self) -> World:
        return self._world

    def listen(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called after every change, and once now."""
        with self._guard:
            self._listeners = (*self._listeners, callback)
        callback()

    def show(self, world: World) -> None:
        """Take a new World; for the agent's part that keeps identities. Nobody is told of an equal one."""
        if world == self._world:
            return
        self._world = world
        for callback in self._listeners:
            callback()
