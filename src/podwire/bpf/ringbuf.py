"""Consumer of a BPF ring buffer."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from ._ffi import ffi, last_errno, lib
from .closing import Closing
from .errors import BpfError
from .maps import Map


class RingBuffer(Closing):
    """Calls ``on_sample(bytes)`` for each record, in order. One consumer per ring buffer and thread.

    ``fileno()`` becomes readable when there is something, so an event loop can wait on it and call
    ``consume()``. An exception in ``on_sample`` ends the round and is raised to the caller; the record
    counts as consumed.
    """

    def __init__(self, source: Map, on_sample: Callable[[bytes], None]) -> None:
        self._on_sample = on_sample
        self._failure: BaseException | None = None
        self._source = source
        self._callback = ffi.callback("int(void *, void *, size_t)", self._sample)  # kept alive with self
        self._pointer: Any = lib().ring_buffer__new(source.fd, self._callback, ffi.NULL, ffi.NULL)
        if self._pointer == ffi.NULL:
            self._pointer = None
            raise BpfError("read", f"ring buffer {source.label}", ffi.errno)

    def _sample(self, _context: Any, data: Any, size: int) -> int:
        try:
            self._on_sample(bytes(ffi.buffer(data, size)))
        except BaseException as error:  # must not unwind through C; _finish raises it again
            self._failure = error
            return -errno.ECANCELED
        return 0

    def fileno(self) -> int:
        """Descriptor to wait on (epoll)."""
        return int(lib().ring_buffer__epoll_fd(self._pointer))

    def poll(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds, consume what is there; returns the number of records."""
        return self._finish(lib().ring_buffer__poll(self._pointer, int(timeout * 1000)))

    def consume(self) -> int:
        """Consume what is there without waiting; returns the number of records."""
        return self._finish(lib().ring_buffer__consume(self._pointer))

    def _finish(self, result: int) -> int:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if result < 0 and last_errno(result) != errno.EINTR:
            raise BpfError("read", f"ring buffer {self._source.label}", last_errno(result))
        return max(result, 0)

    def close(self) -> None:
        """Stop consuming and unmap the buffer."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            lib().ring_buffer__free(pointer)
