"""Hear from the specs' processes as they go: they post each spec's end to a URL."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST_BYTES = 1 << 20


@contextlib.contextmanager
def listening(tell: Callable[[str], object]) -> Iterator[str]:
    """Listen on the loopback while the context lasts; gives the URL. ``tell`` gets each message."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = min(int(self.headers.get("Content-Length") or 0), MOST_BYTES)
            with contextlib.suppress(ValueError, AttributeError):
                tell(str(json.loads(self.rfile.read(size)).get("msg", "")))
            self.send_response(200)
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
