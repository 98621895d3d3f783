"""A control group of a test's own, and sockets that belong to it.

A socket belongs to the control group and the network namespace of the process that made it, for good. So a
small process inside makes sockets on demand and hands them over; the test uses them from where it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import time
import uuid
from pathlib import Path
from types import TracebackType

from podwire.datapath import cgroup

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


class ControlGroup:
    """Make it, make sockets in it, close it: nothing stays behind."""

    def __init__(self) -> None:
        self.path: Path = cgroup.root() / f"podwire-test-{uuid.uuid4().hex[:8]}"
        self.path.mkdir()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._requests.close()
            self._serve(theirs)
        theirs.close()
        (self.path / "cgroup.procs").write_text(str(self._pid))

    def socket(
        self,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        *,
        family: socket.AddressFamily = socket.AF_INET,
        netns: str = "/proc/self/ns/net",
        timeout: float = 5.0,
    ) -> socket.socket:
        """A socket whose owner is in the group and in the network namespace at ``netns``."""
        with Path(netns).open() as namespace:
            socket.send_fds(self._requests, [f"{int(family)} {int(kind)}".encode()], [namespace.fileno()])
        _, descriptors, _, _ = socket.recv_fds(self._requests, 64, 1)
        if not descriptors:
            raise OSError("the process in the control group could not make a socket")
        made = socket.socket(fileno=descriptors[0])
        made.settimeout(timeout)
        return made

    def connect(self, address: str = "127.0.0.1", port: int = 9) -> int:
        """Try a TCP connection; the error number, 0 when it succeeds."""
        with self.socket() as client:
            return client.connect_ex((address, port))

    def close(self) -> None:
        self._requests.close()  # the process ends with it
        os.waitpid(self._pid, 0)
        deadline = time.monotonic() + 5
        while True:
            try:
                self.path.rmdir()
                return
            except OSError:  # its last process is still being put away
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def __enter__(self) -> ControlGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def _serve(requests: socket.socket) -> None:
        """In the process: answer each request with a socket, until the test hangs up. Never returns."""
        with contextlib.suppress(BaseException):
            while True:
                request, descriptors, _, _ = socket.recv_fds(requests, 64, 1)
                if not request:
                    break
                LIBC.setns(descriptors[0], CLONE_NEWNET)
                os.close(descriptors[0])
                family, kind = map(int, request.split())
                with socket.socket(family, kind) as made:
                    socket.send_fds(requests, [b"made"], [made.fileno()])
        os._exit(0)
