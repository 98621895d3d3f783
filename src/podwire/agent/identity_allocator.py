"""The thread that asks the API for numbers of identities, and gives back those that nobody uses.

What is wanted is replaced as a whole, so that nothing is asked for that is not needed any more. While the
API does not answer, it is asked again with growing pauses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from podwire.agent.identity_api import IdentityApi
from podwire.agent.identity_choice import choose
from podwire.agent.identity_objects import IdentityObject
from podwire.kube.client import ApiError
from podwire.policy.model import Labels

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0


class Wanted(NamedTuple):
    """A set of labels that needs a number, or one that is to be touched."""

    labels: Labels
    present: int = 0
    """The number that they have, or had here before; 0 = none."""


class Allocator:
    """Methods may be called from any thread."""

    def __init__(self, api: IdentityApi, on_identity: Callable[[IdentityObject], None]) -> None:
        """``on_identity`` is told of every number, in the allocator's thread."""
        self.trouble = ""
        """Why the last attempt failed; empty when it did not."""
        self._api = api
        self._on_identity = on_identity
        self._wanted: dict[str, Wanted] = {}
        self._garbage: list[IdentityObject] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="identities-api", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def set_wanted(self, wanted: Mapping[str, Wanted]) -> None:
        """Ask for these (by canonical text), and for nothing else any more."""
        with self._wake:
            self._wanted = dict(wanted)
            if not wanted:
                self.trouble = ""
            self._wake.notify()

    def collect(self, items: Sequence[IdentityObject]) -> None:
        """Delete these unless they changed meanwhile. A failure is no matter: they come again."""
        with self._wake:
            self._garbage.extend(items)
            self._wake.notify()

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._wanted or self._garbage)
                if self._stopping:
                    return
                text, wanted = next(iter(self._wanted.items()), ("", None))
                garbage, self._garbage = self._garbage, []
            try:
                if wanted is not None:
                    self._allocate(text, wanted)
                for item in garbage:
                    if self._api.delete(item):
                        log.info("identity %d was not used any more: deleted", item.number)
                pause = FIRST_PAUSE
                continue
            except ApiError as error:
                if self.trouble != str(error):
                    log.warning("identities: %s", error)
                self.trouble = str(error)
            except Exception as error:
                log.exception("identities; trying again")
                self.trouble = f"{type(error).__name__}: {error}"
            with self._wake:
                self._wake.wait_for(lambda: self._stopping, pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _allocate(self, text: str, wanted: Wanted) -> None:
        found = self._api.run(choose(wanted.labels, wanted.present))
        with self._wake:
            if self._wanted.get(text) == wanted:
                del self._wanted[text]
        if found is None:
            self.trouble = "all numbers of identities are taken: too many different sets of pod labels"
            log.error(self.trouble)
            return
        self.trouble = ""
        self._on_identity(found)
