"""All subjects of a node with all policies, kept up to date: a change costs what it touches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from podwire.policy.cidr import named_services, wanted_prefixes
from podwire.policy.compile import enforced_directions, write
from podwire.policy.model import Compiled, Direction, Enforcement, Policy, Rule, Service, Subject
from podwire.policy.prepared import PreparedRule, prepare
from podwire.policy.selectors import matches
from podwire.policy.side import Side, compile_side
from podwire.policy.world import World


@dataclass(slots=True)
class _Book:
    """What is known of a subject."""

    rules: dict[PreparedRule, None]
    """Those that select it."""
    compiled: Compiled | None = None
    sides: dict[Direction, Side] = field(default_factory=dict)
    """Those that are not to be computed anew."""

    def forget(self, changed: Iterable[PreparedRule]) -> None:
        """Have all directions computed that some rules speak of."""
        for prepared in changed:
            for entry in prepared.entries:
                self.sides.pop(entry.direction, None)


class PolicyEngine:
    """Policies, subjects and the world, and what follows from them.

    Book changes (``set_policy``, ``remove_policy``, ``enforcement``, and those of ``world``), then call
    ``update``. Results are the same as those of ``compile_policy`` with all rules. What did not change stays
    the same object, and equal results are one object."""

    def __init__(self, world: World | None = None, enforcement: Enforcement = Enforcement.DEFAULT) -> None:
        self.world = World() if world is None else world
        """Changed by the caller directly; changes count from the next ``update``."""
        self._enforcement = enforcement
        self._policies: dict[str, Policy] = {}
        self._wanted: dict[str, frozenset[IPv4Network]] = {}
        self._services: dict[str, frozenset[Service]] = {}
        self._prepared: dict[str, list[PreparedRule]] = {}
        self._books: dict[Subject, _Book] = {}

    @property
    def enforcement(self) -> Enforcement:
        """Mode for all subjects."""
        return self._enforcement

    @enforcement.setter
    def enforcement(self, mode: Enforcement) -> None:
        if mode is not self._enforcement:
            self._enforcement = mode
            for book in self._books.values():
                book.sides.clear()

    @property
    def policies(self) -> Mapping[str, Policy]:
        """All policies by ``origin.key``, as they were given."""
        return self._policies

    def set_policy(self, policy: Policy) -> None:
        """Learn a policy, or its present state. One without rules selects nobody.

        ValueError: a rule says what no policy can, such as an unknown entity; nothing changes."""
        key = policy.origin.key
        before = self._policies.get(key)
        if before is None or before.rules != policy.rules:
            fresh = [prepare(rule, self.world) for rule in policy.rules]
            self._replace(self._prepared.get(key, []), fresh)
            self._prepared[key] = fresh
            self._wanted[key] = frozenset(wanted_prefixes(policy.rules))
            self._services[key] = frozenset(named_services(policy.rules))
        self._policies[key] = policy

    def remove_policy(self, key: str) -> None:
        """Forget a policy by its ``origin.key``. Unknown: nothing happens."""
        if self._policies.pop(key, None) is not None:
            self._replace(self._prepared.pop(key), [])
            del self._wanted[key], self._services[key]

    def wanted_prefixes(self) -> set[IPv4Network]:
        """Return the prefixes that need identities in ``world``, and addresses in the datapath's ipcache.

        Give them identities before ``update``: what has none is not allowed (nor denied)."""
        wanted = set[IPv4Network]().union(*self._wanted.values())
        return wanted | self.world.prefixes_of(frozenset[Service]().union(*self._services.values()))

    def update(self, subjects: Iterable[Subject]) -> dict[Subject, Compiled]:
        """Return the policies of all ``subjects`` as everything booked has it; forget other subjects.

        The world is refreshed by this."""
        self._refresh_world()
        books: dict[Subject, _Book] = {}
        for subject in subjects:
            if subject not in books:
                books[subject] = self._books.get(subject) or _Book(self._rules_for(subject))
        self._books = books
        self._compile(books)
        return {subject: book.compiled for subject, book in books.items() if book.compiled is not None}

    def rules_of(self, subject: Subject) -> list[Rule]:
        """Return the rules that select a subject of the last ``update``; of another one: none."""
        book = self._books.get(subject)
        return [] if book is None else [prepared.rule for prepared in book.rules]

    def subjects_of(self, key: str) -> list[Subject]:
        """Return the subjects of the last ``update`` that the policy selects."""
        prepared = self._prepared.get(key, ())
        return [
            subject for subject, book in self._books.items() if any(one in book.rules for one in prepared)
        ]

    def _compile(self, books: Mapping[Subject, _Book]) -> None:
        same_input: dict[object, tuple[Compiled, dict[Direction, Side]]] = {}
        same_output = {book.compiled.digest: book.compiled for book in books.values() if book.compiled}
        for subject, book in books.items():
            enforced = enforced_directions(
                subject, (prepared.rule for prepared in book.rules), self._enforcement
            )
            stale = [
                direction
                for direction in Direction
                if direction not in book.sides or book.sides[direction].enforced != (direction in enforced)
            ]
            if book.compiled is not None and not stale:
                continue
            # Nothing else of a subject enters its policy.
            key = (frozenset(book.rules), subject.named_ports, enforced)
            known = same_input.get(key)
            if known is None:
                for direction in stale:
                    book.sides[direction] = self._side(subject, book, direction, direction in enforced)
                fresh = write([book.sides[direction] for direction in Direction])
                known = same_input[key] = same_output.setdefault(fresh.digest, fresh), book.sides
            book.compiled, book.sides = known[0], dict(known[1])

    def _side(self, subject: Subject, book: _Book, direction: Direction, enforced: bool) -> Side:
        rules = () if self._enforcement is Enforcement.NEVER else book.rules
        return compile_side(direction, enforced, subject, rules, self.world)

    def _rules_for(self, subject: Subject) -> dict[PreparedRule, None]:
        return {
            prepared: None
            for rules in self._prepared.values()
            for prepared in rules
            if matches(prepared.rule.subject, subject.labels)
        }

    def _refresh_world(self) -> None:
        changed = self.world.refresh()
        if not changed.selections and not changed.names:
            return
        touched = {
            prepared
            for rules in self._prepared.values()
            for prepared in rules
            if not (
                prepared.selections.isdisjoint(changed.selections)
                and prepared.names.isdisjoint(changed.names)
            )
        }
        for book in self._books.values():
            book.forget(touched.intersection(book.rules))

    def _replace(self, old: list[PreparedRule], fresh: list[PreparedRule]) -> None:
        for subject, book in self._books.items():
            lost = [prepared for prepared in old if prepared in book.rules]
            found = [prepared for prepared in fresh if matches(prepared.rule.subject, subject.labels)]
            for prepared in lost:
                del book.rules[prepared]
            book.rules.update(dict.fromkeys(found))
            book.forget([*lost, *found])
