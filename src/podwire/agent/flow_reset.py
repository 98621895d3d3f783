"""Make stale flows start anew, soon and not too often: searching the connection table takes time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from podwire.agent.service_flows import Stale
from podwire.bpf import BpfError
from podwire.datapath import DatapathError

log = logging.getLogger(__name__)

SHORTEST_PAUSE = 0.2
SHARE = 10
"""At most one part in so many of the time is spent searching."""

Forget = Callable[[Stale], Awaitable[int]]


class FlowReset:
    """Collects what is stale and has it forgotten. Lives in the event loop."""

    def __init__(self, forget: Forget) -> None:
        """``forget`` does the work and tells how many flows it was."""
        self.forgotten = 0
        self._forget = forget
        self._pending = Stale()
        self._task: asyncio.Task[None] | None = None

    def add(self, stale: Stale) -> None:
        self._pending.add(stale)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="stale-flows")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        while self._pending:
            stale, self._pending = self._pending, Stale()
            started = time.monotonic()
            try:
                count = await self._forget(stale)
            except (BpfError, DatapathError, OSError) as error:
                log.error("flows to backends that left are not forgotten: %s", error)
            else:
                self.forgotten += count
                if count:
                    log.info("%d flows of UDP services start anew", count)
            await asyncio.sleep(max(SHORTEST_PAUSE, SHARE * (time.monotonic() - started)))
