"""All services of the cluster, and the difference they make to the datapath's tables.

Objects are put in and taken out in any order; ``flush`` compiles the services that this touched, each once,
and returns what to change. The cost of a change is that of the services it touches, not of all.

A list of backends never changes: new backends are a new list, and the frontends change over to it. So the
order to apply changes in is lists, affinity members and source ranges, then frontends, then the removals."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from podwire.service.changes import Changes
from podwire.service.claims import POD, SERVICE, Claims, Owner
from podwire.service.compile import Compiled, CompiledPort, compile_host_ports, compile_service
from podwire.service.complaints import Complaints, Limits
from podwire.service.entries import (
    Entry,
    Port,
    frontend_of,
    health_check_key,
    source_ranges_of,
    wanted_keys,
    wanted_lists,
)
from podwire.service.lists import Lists
from podwire.service.model import (
    Backend,
    BackendList,
    Flags,
    Frontend,
    FrontendKey,
    HealthCheck,
    HostPort,
    Name,
    NodeContext,
    PortName,
    Problem,
    Protocol,
    Service,
    Slice,
)

__all__ = ["POD", "SERVICE", "Changes", "Limits", "Owner", "Registry"]

T = TypeVar("T")


class Registry:
    """Every service, its slices, and what the datapath's tables should hold for them. Not thread-safe."""

    def __init__(
        self,
        context: NodeContext,
        limits: Limits | None = None,
        *,
        first_list: int = 1,
        known_services: Mapping[FrontendKey, int] | None = None,
    ) -> None:
        """``first_list`` must be above every list that an earlier agent left in the maps. ``known_services``
        are its numbers of services by frontend: a service port that still has such a frontend keeps its
        number, and with it the affinity of its clients."""
        self._context = context
        self._limits = limits or Limits()
        self._known = dict(known_services or {})
        self._next_number = max(self._known.values(), default=0) + 1
        self._services: dict[Name, Service] = {}
        self._slices: dict[Name, dict[Name, Slice]] = {}
        self._slice_service: dict[Name, Name] = {}
        self._host_ports: dict[Name, tuple[str, tuple[HostPort, ...]]] = {}
        self._dirty: dict[Owner, None] = {}
        self._entries: dict[Owner, Entry] = {}
        self._claims = Claims()
        self._lists = Lists(first_list, self._limits.backends, self._limits.list_length)
        self._frontends: dict[FrontendKey, Frontend] = {}
        self._numbers: dict[int, tuple[Owner, PortName]] = {}
        self._health_checks: dict[int, HealthCheck] = {}
        self._starved: set[Owner] = set()
        """Owners that would use more room in the tables."""
        self._settled = (0, 0)
        """What was in use when they were last looked at."""
        self._before: dict[FrontendKey, Frontend | None] = {}
        """While changes are gathered: what those frontends were when it began; None = not there."""
        self._checks_before: dict[int, HealthCheck | None] = {}
        """The same of health checks."""

    # -- input -------------------------------------------------------------------------------------

    def set_service(self, service: Service) -> None:
        """Add a service or replace it."""
        if self._services.get(service.name) != service:
            self._services[service.name] = service
            self._dirty[Owner(SERVICE, service.name)] = None

    def delete_service(self, name: Name) -> None:
        """Forget a service; unknown ones are fine. Its slices stay until they are deleted too."""
        if self._services.pop(name, None) is not None:
            self._dirty[Owner(SERVICE, name)] = None

    def set_slice(self, item: Slice) -> None:
        """Add a slice or replace it, also when it now belongs to another service."""
        service = Name(item.name.namespace, item.service)
        if self._slice_service.get(item.name) != service:
            self.delete_slice(item.name)
        if not item.service:
            return
        mine = self._slices.setdefault(service, {})
        if mine.get(item.name) != item:
            mine[item.name] = item
            self._slice_service[item.name] = service
            self._dirty[Owner(SERVICE, service)] = None

    def delete_slice(self, name: Name) -> None:
        """Forget a slice; unknown ones are fine."""
        service = self._slice_service.pop(name, None)
        if service is None:
            return
        del self._slices[service][name]
        if not self._slices[service]:
            del self._slices[service]
        self._dirty[Owner(SERVICE, service)] = None

    def set_host_ports(self, pod: Name, ports: Iterable[HostPort], created: str = "") -> None:
        """Say which host ports a pod of this node has; none removes them. ``created`` is the pod's age as the
        API writes it: the older object wins a conflict."""
        value = (created, tuple(ports))
        if not value[1]:
            changed = self._host_ports.pop(pod, None) is not None
        else:
            changed = self._host_ports.get(pod) != value
            self._host_ports[pod] = value
        if changed:
            self._dirty[Owner(POD, pod)] = None

    def set_context(self, context: NodeContext) -> None:
        """Take new facts about the nodes; the services that depend on what changed are compiled again."""
        before, self._context = self._context, context
        if before == context:
            return
        if replace(before, node_addresses=context.node_addresses) == context:
            moved = before.node_addresses ^ context.node_addresses
            for service in self._services.values():
                if moved.intersection((*service.external_addresses, *service.load_balancer_addresses)):
                    self._dirty[Owner(SERVICE, service.name)] = None
            return
        self._dirty.update((Owner(SERVICE, name), None) for name in self._services)

    # -- output ------------------------------------------------------------------------------------

    def flush(self, most: int | None = None) -> Changes:
        """What to change for the objects since the last call, ``most`` objects at a time.

        Empty only when there is nothing left to do."""
        changes = Changes()
        while self._dirty and not changes:
            for owner in list(itertools.islice(self._dirty, most)):
                del self._dirty[owner]
                self._update(owner, changes)
            self._drop_needless(changes)
        # Room may have become free for those that did not fit.
        if self._starved and self._settled != self._in_use():
            for owner in sorted(self._starved):
                self._update(owner, changes)
            self._settled = self._in_use()
            self._drop_needless(changes)
        self._before.clear()
        self._checks_before.clear()
        return changes

    def _drop_needless(self, changes: Changes) -> None:
        """Leave out what is again as it was before this batch."""
        for key, value in self._before.items():
            if value is not None and changes.frontends.get(key) == value:
                del changes.frontends[key]
        for number, check in self._checks_before.items():
            if check is not None and changes.health_checks.get(number) == check:
                del changes.health_checks[number]

    @property
    def pending(self) -> int:
        """How many objects the next ``flush`` will look at."""
        return len(self._dirty)

    def frontends(self) -> Mapping[FrontendKey, Frontend]:
        """What the table of frontends should hold, as of the last ``flush``."""
        return self._frontends

    def lists(self) -> Mapping[int, BackendList]:
        """Every list in use, as of the last ``flush``."""
        return self._lists.contents

    def affinity_members(self) -> Iterator[tuple[int, Backend]]:
        """What the table of affinity members should hold."""
        return (pair for port in self._ports() for pair in self._members(port))

    def source_ranges(self) -> Iterator[tuple[int, str]]:
        """What the table of source ranges should hold."""
        return (pair for port in self._ports() for pair in source_ranges_of(port))

    def health_checks(self) -> Mapping[int, HealthCheck]:
        """Health-check node ports that should be open."""
        return self._health_checks

    def problems(self) -> Iterator[Problem]:
        """Every problem, as of the last ``flush``."""
        return (problem for entry in self._entries.values() for problem in entry.problems)

    def problems_of(self, name: Name) -> tuple[Problem, ...]:
        """The problems of one service, as of the last ``flush``."""
        entry = self._entries.get(Owner(SERVICE, name))
        return entry.problems if entry else ()

    @property
    def context(self) -> NodeContext:
        """The facts about the nodes that were given last."""
        return self._context

    def service(self, name: Name) -> Service | None:
        """The service of that name."""
        return self._services.get(name)

    def service_names(self) -> list[Name]:
        """Every service's name, in no order."""
        return list(self._services)

    def slice_names(self) -> list[Name]:
        """The names of all slices that are in use, in no order."""
        return list(self._slice_service)

    def slices_of(self, name: Name) -> tuple[Slice, ...]:
        """The slices of a service."""
        return tuple(self._slices.get(name, {}).values())

    def host_port_pods(self) -> list[Name]:
        """Every pod with host ports, in no order."""
        return list(self._host_ports)

    def owners(self) -> list[Owner]:
        """Every service, and every pod with host ports, sorted."""
        services = (Owner(SERVICE, name) for name in self._services)
        return sorted((*services, *(Owner(POD, name) for name in self._host_ports)))

    def frontends_of(self, owner: Owner) -> Iterator[tuple[PortName, FrontendKey, Frontend]]:
        """What one object has in the table of frontends, as of the last ``flush``."""
        entry = self._entries.get(owner)
        for name, port in entry.ports.items() if entry else ():
            for key in port.compiled.frontends:
                if key in self._frontends and self._claims.holder(key) == owner:
                    yield name, key, self._frontends[key]

    def service_of(self, number: int) -> tuple[Owner, PortName]:
        """Object and port behind a service number, for events. Raises KeyError."""
        return self._numbers[number]

    # -- one object --------------------------------------------------------------------------------

    def _update(self, owner: Owner, changes: Changes) -> None:
        """Compile one object and record what that changes, also for others that want the same frontends."""
        self._starved.discard(owner)
        compiled, created = self._compile(owner)
        if compiled is None and owner not in self._entries:
            return
        entry = self._entries.setdefault(owner, Entry())
        before, entry.compiled = wanted_keys(entry.compiled), compiled or Compiled()
        affected, freed = self._claims.replace(owner, created, before, wanted_keys(entry.compiled))
        for key in freed:
            self._remove(key, changes)
        self._update_ports(owner, entry, changes)
        for other in (owner, *sorted(affected)):
            self._write(other, self._entries[other], changes)
        if compiled is None:
            del self._entries[owner]

    def _compile(self, owner: Owner) -> tuple[Compiled | None, str]:
        """What the object means, and its age; None when there is no such object."""
        if owner.kind == POD:
            created, ports = self._host_ports.get(owner.name, ("", ()))
            return (compile_host_ports(owner.name, ports) if ports else None), created
        service = self._services.get(owner.name)
        if service is None:
            return None, ""
        return compile_service(service, self.slices_of(owner.name), self._context), service.created

    def _update_ports(self, owner: Owner, entry: Entry, changes: Changes) -> None:
        """Numbers, lists, affinity members and source ranges."""
        wanted = {port.name: port for port in entry.compiled.ports}
        for name in [name for name in entry.ports if name not in wanted]:
            port = entry.ports.pop(name)
            self._update_port(port, CompiledPort(name, {}, ()), changes)
            del self._numbers[port.number]
        for name, value in wanted.items():
            present = entry.ports.get(name)
            if present is None:
                number = self._number(owner, value)
                present = entry.ports[name] = Port(number, CompiledPort(name, {}, ()))
            self._update_port(present, value, changes)

    def _number(self, owner: Owner, port: CompiledPort) -> int:
        known = [self._known.pop(key, 0) for key in port.frontends]
        number = next((number for number in known if number and number not in self._numbers), 0)
        if not number:
            number = self._next_number
            self._next_number += 1
        self._numbers[number] = (owner, port.name)
        return number

    def _update_port(self, port: Port, value: CompiledPort, changes: Changes) -> None:
        if port.compiled == value and not port.no_room:
            return
        members, ranges, backends = (
            set(self._members(port)),
            set(source_ranges_of(port)),
            self._backends(port),
        )
        port.compiled = value
        placed = self._lists.swap({port.cluster, port.local}, wanted_lists(value), changes)
        port.cluster, port.local = placed.numbers[0], placed.numbers[-1]
        port.no_room, port.too_long = placed.no_room, placed.too_long
        _shift(members, set(self._members(port)), changes.affinity_members, changes.removed_affinity_members)
        _shift(ranges, set(source_ranges_of(port)), changes.source_ranges, changes.removed_source_ranges)
        if value.name.protocol == Protocol.UDP:
            now = self._backends(port)
            changes.released_udp -= {(port.number, backend) for backend in now}
            changes.released_udp |= {(port.number, backend) for backend in backends - now}

    def _write(self, owner: Owner, entry: Entry, changes: Changes) -> None:
        """Frontends that the object has, its health check and its problems."""
        problems = list(entry.compiled.problems)
        complaints = Complaints(owner, problems)
        for port in entry.ports.values():
            if port.no_room or port.too_long:
                complaints.left_out(port, self._limits)
            if port.no_room:
                self._starved.add(owner)
            for key, flags in port.compiled.frontends.items():
                holder = self._claims.holder(key)
                if holder != owner:
                    complaints.conflict(key, flags, holder)
                elif not self._write_frontend(key, frontend_of(port, flags, self._lists), changes):
                    complaints.no_room_for(key, flags, self._limits)
                    self._starved.add(owner)
        self._write_health_check(owner, entry, complaints, changes)
        if tuple(problems) != entry.problems:
            entry.problems = changes.problems[owner] = tuple(problems)

    def _write_frontend(self, key: FrontendKey, value: Frontend, changes: Changes) -> bool:
        """False when there is no room."""
        present = self._frontends.get(key)
        if present is None and len(self._frontends) >= self._limits.frontends:
            return False
        if present != value:
            self._before.setdefault(key, present)
            self._frontends[key] = changes.frontends[key] = value
            changes.removed_frontends.discard(key)
        return True

    def _write_health_check(
        self, owner: Owner, entry: Entry, complaints: Complaints, changes: Changes
    ) -> None:
        number, check = entry.compiled.health_check_port, entry.compiled.health_check
        key = health_check_key(number)
        if number and self._claims.holder(key) != owner:
            complaints.conflict(key, Flags(0), self._claims.holder(key))
            number = 0
        elif number and any(key in port.compiled.frontends for port in entry.ports.values()):
            complaints.conflict(key, Flags(0), owner)
            number = 0
        elif number:
            self._remove(key, changes)  # it may have been a node port of somebody who waits now
        if entry.health_check_port not in (0, number):
            # Unless the port has another service's check by now.
            open_check = self._health_checks.get(entry.health_check_port)
            if open_check is not None and open_check.service == owner.name:
                self._remove_health_check(entry.health_check_port, changes)
        entry.health_check_port = number
        if number and check is not None and self._health_checks.get(number) != check:
            self._checks_before.setdefault(number, self._health_checks.get(number))
            self._health_checks[number] = changes.health_checks[number] = check
            changes.removed_health_checks.discard(number)

    def _remove_health_check(self, number: int, changes: Changes) -> None:
        present = self._health_checks.pop(number)
        changes.health_checks.pop(number, None)
        if self._checks_before.setdefault(number, present) is not None:
            changes.removed_health_checks.add(number)

    def _remove(self, key: FrontendKey, changes: Changes) -> None:
        present = self._frontends.pop(key, None)
        if present is not None:
            before = self._before.setdefault(key, present)
            changes.frontends.pop(key, None)
            if before is not None:
                changes.removed_frontends.add(key)

    # -- what is in the tables ---------------------------------------------------------------------

    def _in_use(self) -> tuple[int, int]:
        return self._lists.used, len(self._frontends)

    def _ports(self) -> Iterator[Port]:
        return (port for entry in self._entries.values() for port in entry.ports.values())

    def _backends(self, port: Port) -> set[Backend]:
        contents = self._lists.contents
        return {
            backend
            for number in (port.cluster, port.local)
            if number
            for backend in contents[number].backends
        }

    def _members(self, port: Port) -> Iterator[tuple[int, Backend]]:
        if port.compiled.affinity_seconds:
            yield from ((port.number, backend) for backend in self._backends(port))


def _shift(before: set[T], after: set[T], added: set[T], removed: set[T]) -> None:
    """Record the difference, in a batch that may already say the opposite."""
    removed -= after
    added -= before - after
    added |= after - before
    removed |= before - after
