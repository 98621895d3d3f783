"""Who has which frontend. Two objects may want the same one (a node port, an external IP): the older gets it,
and the other as soon as the older lets go."""

from __future__ import annotations

from typing import NamedTuple

from podwire.service.model import FrontendKey, Name

SERVICE, POD = "Service", "Pod"


class Owner(NamedTuple):
    """The object that a frontend or a problem belongs to."""

    kind: str
    """SERVICE, or POD for host ports."""
    name: Name

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Claims:
    """Holders of frontends, and who waits for one."""

    def __init__(self) -> None:
        self._holders: dict[FrontendKey, Owner] = {}
        self._waiting: dict[FrontendKey, set[Owner]] = {}
        self._created: dict[Owner, str] = {}

    def holder(self, key: FrontendKey) -> Owner | None:
        return self._holders.get(key)

    def replace(
        self, owner: Owner, created: str, before: set[FrontendKey], after: set[FrontendKey]
    ) -> tuple[set[Owner], list[FrontendKey]]:
        """Let ``owner`` want the frontends ``after`` instead of ``before``.

        Returns the other owners that won or lost something by it, and the frontends that nobody has any
        more."""
        same_age = self._created.get(owner, created) == created
        self._created[owner] = created
        affected: set[Owner] = set()
        freed: list[FrontendKey] = []
        for key in before ^ after if same_age else before | after:
            holder = self._holders.get(key)
            if holder is None:
                self._holders[key] = owner
                continue
            candidates = self._waiting.pop(key, set()) | {holder}
            candidates.discard(owner)
            if key in after:
                candidates.add(owner)
            if candidates:
                self._settle(key, holder, candidates, affected)
            else:
                del self._holders[key]
                freed.append(key)
        if not after:
            del self._created[owner]
        affected.discard(owner)
        return affected, freed

    def _settle(self, key: FrontendKey, holder: Owner, candidates: set[Owner], affected: set[Owner]) -> None:
        winner = min(candidates, key=lambda owner: (self._created[owner], owner))
        if winner != holder:
            self._holders[key] = winner
            affected |= candidates  # the others' problems name the winner
            affected.add(holder)
        if len(candidates) > 1:
            self._waiting[key] = candidates - {winner}
