"""What the specs' processes speak to on this machine: they post each spec's end, and ask for the internet.

Before each networking spec upstream fetches http://google.com, as a precondition that is no test of the
cluster (it is the process itself that does, not a pod). A lab has no internet: the answer comes from here,
as from an HTTP proxy. Nothing else is answered.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST_BYTES = 1 << 20
PRECONDITION = "http://google.com"


@contextlib.contextmanager
def listening(tell: Callable[[str], object]) -> Iterator[str]:
    """Listen on the loopback while the context lasts; gives the URL. ``tell`` gets each message."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = min(int(self.headers.get("Content-Length") or 0), MOST_BYTES)
            with contextlib.suppress(ValueError, AttributeError):
                tell(str(json.loads(self.rfile.read(size)).get("msg", "")))
            self._answer(200)

        def do_GET(self) -> None:
            self._answer(200 if self.path.rstrip("/") == PRECONDITION else 502)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing: what arrives is told."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join(5)
