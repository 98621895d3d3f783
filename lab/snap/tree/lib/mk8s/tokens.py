"""Join tokens, one a line in cluster-tokens.txt: `token` (for one join) or `token|unixtime` (until then)."""

from __future__ import annotations

import fcntl
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import files
from .layout import Layout

MINIMUM_LENGTH = 32


class TokenError(Exception):
    """A token that cannot be used; the message says why."""


def create() -> str:
    return secrets.token_hex(MINIMUM_LENGTH // 2)


def add(text: str, token: str, expires: float | None) -> str:
    """The file's text with a token more. Raises TokenError for a token that is too short."""
    if len(token) < MINIMUM_LENGTH:
        raise TokenError(f"a token needs at least {MINIMUM_LENGTH} characters, this one has {len(token)}")
    entry = token if expires is None else f"{token}|{int(expires)}"
    return text + entry + "\n"


def consume(text: str, token: str, now: float) -> tuple[bool, str]:
    """Is the token good, and what is left of the file after its use?"""
    good = False
    kept = []
    for line in text.splitlines():
        name, _, expires = line.strip().partition("|")
        if expires and float(expires) < now:
            continue
        if name and secrets.compare_digest(name.encode(), token.encode()):
            good = True
            if not expires:
                continue
        if name:
            kept.append(line.strip())
    return good, "".join(f"{line}\n" for line in kept)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    lock = path.with_name(f".{path.name}.flock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def store(layout: Layout, token: str, ttl: int) -> None:
    """Accept a token from now on: once when ttl is negative, else any number of times for ttl seconds."""
    path = layout.credential("cluster-tokens.txt")
    with _exclusive(path):
        files.write(path, add(files.read(path), token, time.time() + ttl if ttl >= 0 else None))


def redeem(layout: Layout, token: str, name: str = "cluster-tokens.txt") -> bool:
    """Is the token good? A token without expiry is used up. Persistent tokens always are."""
    if token in files.read(layout.credential("persistent-cluster-tokens.txt")).split():
        return True
    path = layout.credential(name)
    with _exclusive(path):
        good, rest = consume(files.read(path), token, time.time())
        if rest != files.read(path):
            files.write(path, rest)
    return good
