"""A server that answers on a unix socket as snapd's REST API documents it, from a script of replies."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


def sync(result: Any) -> dict[str, Any]:
    return {"type": "sync", "status-code": 200, "status": "OK", "result": result}


def accepted(change: str) -> dict[str, Any]:
    return {"type": "async", "status-code": 202, "status": "Accepted", "result": None, "change": change}


def error(status: int, message: str, kind: str = "", value: Any = None) -> dict[str, Any]:
    result = {"message": message}
    if kind:
        result["kind"] = kind
    if value is not None:
        result["value"] = value
    return {"type": "error", "status-code": status, "status": "", "result": result}


def change(status: str, tasks: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    ready = status in ("Done", "Undone", "Hold", "Error")
    return sync(
        {
            "id": "7",
            "kind": "install-snap",
            "summary": 'Install "microk8s" snap',
            "status": status,
            "ready": ready,
            "spawn-time": "2026-01-05T10:00:00.000000001Z",
            "tasks": tasks or [],
            **more,
        }
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"

    def _serve(self) -> None:
        server = self.server
        length = int(self.headers.get("Content-Length") or 0)
        request = f"{self.command} {self.path}"
        replies = server.replies[request]
        reply = replies.popleft() if len(replies) > 1 else (replies[0] if replies else None)
        if reply == "early refusal":
            # snapd answers before it has read the upload, and closes.
            self._send(error(507, "insufficient space", "insufficient-disk-space"))
            self.close_connection = True
            return
        body = self.rfile.read(length)
        server.seen.append((request, dict(self.headers), body))
        if reply == "hang up":
            self.close_connection = True
            self.connection.close()
            return
        self._send(reply or error(404, f"no reply scripted for {request}"))

    do_GET = do_POST = do_PUT = _serve

    def _send(self, reply: dict[str, Any]) -> None:
        payload = json.dumps(reply).encode()
        self.send_response(reply["status-code"])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.replies: dict[str, deque[Any]] = defaultdict(deque)
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        super().__init__(str(path), Handler)
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def handle_error(self, *_: Any) -> None:
        """A client that goes away in the middle is part of what is tested."""

    def script(self, request: str, *replies: Any) -> None:
        """What to answer to a request, one after another; the last one stays."""
        self.replies[request].extend(replies)

    def requests(self) -> list[str]:
        return [request for request, _, _ in self.seen]

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


def soon(seconds: float = 5.0) -> float:
    """A deadline for the client."""
    return time.monotonic() + seconds
