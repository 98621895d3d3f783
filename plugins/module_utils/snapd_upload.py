# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""A snap file on its way to snapd."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

#: Files are uploaded in pieces of this many bytes and never held in memory.
UPLOAD_CHUNK = 1 << 20


class Upload:
    """A multipart/form-data body that is read from the file while it is sent."""

    def __init__(self, file: Path, fields: Mapping[str, str]) -> None:
        boundary = f"podwire-{uuid.uuid4().hex}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._file = file
        # snapd wants the form's text parts before it reads the file.
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="snap"; filename="{file.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = head.encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._size = file.stat().st_size
        self.length = len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        left = self._size
        with self._file.open("rb") as stream:
            while left:
                piece = stream.read(min(UPLOAD_CHUNK, left))
                if not piece:
                    raise PodwireError(
                        f"{self._file} became shorter while it was uploaded", hint="Run again."
                    )
                left -= len(piece)
                yield piece
        yield self._tail
