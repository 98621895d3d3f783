"""Follow the API and answer on port 53. Listens only once everything is known: that is being ready."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from functools import partial

from .names import Names
from .server import serving
from .watch import Api, follow

PORT = 53


async def main() -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    names = Names(os.environ.get("CLUSTER_DOMAIN", "cluster.local"))
    api = Api.from_pod(os.environ)
    listed = {kind: asyncio.Event() for kind in names.KINDS}
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)

    def know(kind: str, objects: list[dict[str, object]]) -> None:
        names.replace(kind, objects)
        listed[kind].set()

    for kind in names.KINDS:
        threading.Thread(
            target=follow,
            args=(
                api,
                kind,
                partial(loop.call_soon_threadsafe, know, kind),
                partial(loop.call_soon_threadsafe, names.change, kind),
            ),
            daemon=True,
        ).start()
    for event in listed.values():
        await event.wait()
    async with serving(names, "0.0.0.0", PORT):  # noqa: S104 - a pod's own address is not known before
        print("serving", flush=True)
        await end.wait()


asyncio.run(main())
