"""The CNI plugin as it is shipped, and a server in the agent's place that behaves as a test wants."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "cni" / "podwire-cni.c"
ENV = {
    "CNI_CONTAINERID": "abc123",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/x",
    "CNI_PATH": "/opt/cni/bin",
}


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cni") / "podwire-cni"
    flags = ["-static", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", str(path), str(SOURCE)], check=True)
    return path


@dataclass
class Answer:
    """What the plugin did."""

    code: int
    text: str
    stderr: str

    @property
    def value(self) -> Any:
        return json.loads(self.text)


@dataclass
class Plugin:
    """Calls the plugin with a configuration that points at the test's socket and queue."""

    binary: Path
    directory: Path
    requests: list[bytes] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        return self.directory / "cni.sock"

    @property
    def queue(self) -> Path:
        return self.directory / "a" / "queue"

    def config(self, **more: Any) -> dict[str, Any]:
        value = {
            "cniVersion": "1.0.0",
            "name": "podwire",
            "agentSocket": str(self.socket),
            "queueDir": str(self.queue),
            "agentTimeout": 5,
            **more,
        }
        return {key: item for key, item in value.items() if item is not None}

    def call(
        self,
        command: str | None,
        stdin: bytes | None = None,
        env: dict[str, str] | None = None,
        **config: Any,
    ) -> Answer:
        environment = {**ENV, **({"CNI_COMMAND": command} if command is not None else {}), **(env or {})}
        done = subprocess.run(
            [str(self.binary)],
            input=json.dumps(self.config(**config)).encode() if stdin is None else stdin,
            env={key: value for key, value in environment.items() if value != "UNSET"},
            capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def queued(self) -> list[str]:
        return sorted(path.name for path in self.queue.iterdir()) if self.queue.exists() else []


@pytest.fixture
def plugin(binary: Path, tmp_path: Path) -> Plugin:
    return Plugin(binary, tmp_path)


Behaviour = Callable[[socket.socket, bytes], None]
Serve = Callable[[Behaviour], None]


@pytest.fixture
def serve(plugin: Plugin) -> Iterator[Serve]:
    """``serve(behaviour)``: each request is noted and handed to ``behaviour`` with its connection."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    threads: list[threading.Thread] = []

    def start(behaviour: Behaviour) -> None:
        listener.bind(str(plugin.socket))
        listener.listen(64)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(10)
                    request = read_request(connection)
                    plugin.requests.append(request)
                    behaviour(connection, request)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        threads.append(thread)

    yield start
    if threads:
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(10)


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(
        next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))[15:]
    )
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            break
        body += part
    return head + b"\r\n\r\n" + body


def answer(status: int, body: bytes) -> Behaviour:
    """Behave as the agent does."""

    def behaviour(connection: socket.socket, _: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return behaviour
