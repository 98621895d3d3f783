"""Maglev: a lookup table that spreads flows evenly over backends and moves few of them when backends change.

Every backend has its own order of preference over the table's slots, made from its address and port alone.
They take turns, each claiming its best slot that is still free. So all nodes build the same table from the
same backends, and the slots of a backend that left are about the only ones that change hands.
(Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016.)"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from podwire.service.model import Backend

SIZES = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 65537, 131071)
"""Table sizes to choose from: primes, so that every order of preference reaches every slot. A table should
have about a hundred slots for each backend."""
DEFAULT_SIZE = 16381


def table(backends: Sequence[Backend], size: int = DEFAULT_SIZE) -> array[int]:
    """For every slot the index of its backend in ``backends``, as 16-bit numbers.

    ``size`` must be a prime above 1, and there must be from 1 to 65536 backends; raises ValueError. The order
    of the backends does not matter for who gets which slot. With more backends than slots some get none."""
    if not 1 <= len(backends) <= 65536:
        raise ValueError(f"a table needs from 1 to 65536 backends, not {len(backends)}")
    if not is_prime(size):
        raise ValueError(f"the size of a Maglev table must be a prime, not {size}; such as {DEFAULT_SIZE}")
    turns = sorted((*_preference(backend, size), index) for index, backend in enumerate(backends))
    # One row per backend: the slot it tries next, its step and its index.
    rows = [[offset, skip, index] for offset, skip, index in turns]
    owners = array("H", bytes(2 * size))
    free = bytearray(b"\1") * size
    left = size
    while True:
        for row in rows:
            slot, skip, index = row
            while not free[slot]:
                slot += skip
                if slot >= size:
                    slot -= size
            free[slot] = 0
            owners[slot] = index
            row[0] = slot
            left -= 1
            if not left:
                return owners


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _preference(backend: Backend, size: int) -> tuple[int, int]:
    """Where a backend's order of preference starts, and its step: from 1 to size - 1."""
    digest = hashlib.blake2b(f"{backend.address}:{backend.port}".encode(), digest_size=16).digest()
    offset = int.from_bytes(digest[:8], "big") % size
    step = int.from_bytes(digest[8:], "big") % (size - 1) + 1
    return offset, step
