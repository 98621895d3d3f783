"""An HTTP server on a unix socket that gives the answers a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

Answers = Mapping[str, tuple[int, Any]]
"""Status and JSON value by path and query."""


@contextlib.contextmanager
def serving(socket: Path, answers: Answers, *, unknown: str = "not found") -> Iterator[str]:
    """The server; yields the path of its socket. Every other path is 404 with ``unknown`` as error."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, value = answers.get(self.path, (404, {"error": unknown}))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingUnixStreamServer(str(socket), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield str(socket)
        finally:
            server.shutdown()
