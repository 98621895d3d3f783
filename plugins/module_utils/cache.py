# Copyright: the podwire authors
# SPDX-License-Identifier: Apache-2.0
"""A cache of build results addressed by content, safe against crashes, parallel runs and bad disks.

An entry is the directory ``ROOT/KIND/KEY``. It is built in a temporary directory beside it, gets a manifest
of sizes and checksums, is flushed to disk and then renamed into place: an entry either exists whole or not at
all. A file lock per entry keeps two runs from building the same thing twice. An interrupted build leaves a
temporary directory behind, which the next build of the same kind removes.

Standard library only: Ansible modules and the lab share this file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any, Callable, Collection, Iterator

DEFAULT_ROOT = "/var/cache/podwire"
MANIFEST = ".manifest.json"
LOCKS = ".locks"
TEMPORARY = ".tmp~"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_IGNORED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}

Builder = Callable[[Path], Any]
Log = Callable[[str], Any]


class CacheError(Exception):
    """The cache cannot do what was asked; the message names the path, ``hint`` the way out."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}. {hint}" if hint else message)
        self.hint = hint


def default_root() -> Path:
    """The cache directory: the environment variable PODWIRE_CACHE, else /var/cache/podwire."""
    return Path(os.environ.get("PODWIRE_CACHE") or DEFAULT_ROOT)


def fingerprint(*parts: str | bytes | Path) -> str:
    """A key made from content: strings as they are, paths by what they hold (directories recursively).

    File names below a given directory and the executable bit count, times and owners do not.
    Raises ``FileNotFoundError`` when a path does not exist.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            _add_path(digest, part)
        else:
            data = part.encode() if isinstance(part, str) else part
            digest.update(b"data %d\0" % len(data) + data)
    return digest.hexdigest()[:32]


def _add_path(digest: Any, path: Path) -> None:
    if not path.is_dir():
        _add_file(digest, path, b"")
        return
    for directory, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if name not in _IGNORED)
        for name in sorted(files):
            if not name.endswith((".pyc", "~", ".swp")):
                file = Path(directory, name)
                _add_file(digest, file, os.fsencode(file.relative_to(path)))


def _add_file(digest: Any, path: Path, name: bytes) -> None:
    if path.is_symlink():
        digest.update(b"link %s\0%s\0" % (name, os.fsencode(path.readlink())))
        return
    executable = bool(path.stat().st_mode & 0o100)
    digest.update(b"file %s\0%d %s\0" % (name, executable, _checksum(path).encode()))


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Cache:
    """A directory of build results. ``log`` receives one line for each thing worth telling a person."""

    def __init__(self, root: str | os.PathLike[str] | None = None, log: Log | None = None) -> None:
        self.root = Path(root or default_root()).absolute()
        self._log = log or (lambda line: None)

    def path(self, kind: str, key: str) -> Path:
        """Where the entry is or would be. Raises ``CacheError`` for names that cannot be directories."""
        for what, name in (("kind", kind), ("key", key)):
            if not _NAME.fullmatch(name) or len(name) > 200:
                raise CacheError(
                    f"cache {what} {name!r} is not a plain name", "Use letters, digits and ._+- only"
                )
        return self.root / kind / key

    def get(self, kind: str, key: str) -> Path | None:
        """The entry's directory, or None when it is absent or damaged (damage is logged)."""
        entry = self.path(kind, key)
        damage = self.damage(kind, key)
        if damage:
            if entry.exists():
                self._log(f"cache entry {entry} is damaged ({damage}) and will be rebuilt")
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)  # least recently used goes first, see prune()
        return entry

    def damage(self, kind: str, key: str, *, full: bool = False) -> str | None:
        """What is wrong with an entry, or None when it is whole.

        A file whose size and times are those of the manifest counts as unchanged; any other is read and its
        checksum compared. ``full`` reads every file.
        """
        entry = self.path(kind, key)
        try:
            manifest = json.loads((entry / MANIFEST).read_text())
            recorded = list(manifest["files"].items())
        except FileNotFoundError:
            return "no manifest"
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            return f"unreadable manifest: {error}"
        restated = False
        for name, facts in recorded:
            problem, changed = _compare(entry / name, facts, full)
            if problem:
                return f"{name}: {problem}"
            restated |= changed
        if restated:
            # Same content, other times, as after a restored backup: remember, so the next look is quick.
            with contextlib.suppress(OSError):
                _write_file(entry / MANIFEST, json.dumps(manifest))
        return None

    def build(self, kind: str, key: str, builder: Builder, *, log: Log | None = None, need: int = 0) -> Path:
        """Return the entry, calling ``builder(directory)`` to make it when it is absent or damaged.

        ``need`` is the space in bytes that the build takes; with less free it is not begun. Raises
        ``CacheError`` when the directory cannot be written or the disk is full; whatever the builder raises
        passes through, and nothing of the failed build stays.
        """
        say = log or self._log
        entry = self.path(kind, key)
        with self._lock(kind, key, say):
            found = self.get(kind, key)
            if found:
                return found
            self._remove_leftovers(kind, own=key)
            self._check_space(entry, need)
            with self._errors_named(entry, need):
                _remove(entry)
                temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{key}~", dir=entry.parent))
                try:
                    temporary.chmod(0o755)
                    builder(temporary)
                    _seal(temporary)
                    temporary.rename(entry)
                    _sync_directory(entry.parent)
                except BaseException:
                    _remove(temporary)
                    raise
        return entry

    def discard(self, kind: str, key: str) -> bool:
        """Remove an entry; says whether there was one."""
        entry = self.path(kind, key)
        with self._lock(kind, key, self._log):
            existed = entry.exists()
            _remove(entry)
        return existed

    def prune(self, kind: str, keep: int, spare: Collection[Path] = ()) -> list[str]:
        """Remove all but the ``keep`` most recently used entries of a kind; returns the removed keys.

        The directories in ``spare`` and entries that another run is working on are left alone.
        """
        folder = self.path(kind, "any").parent
        try:
            entries = [item for item in folder.iterdir() if _NAME.fullmatch(item.name) and item.is_dir()]
        except FileNotFoundError:
            return []
        entries.sort(key=lambda item: item.stat().st_mtime, reverse=True)
        removed = []
        for entry in entries[keep:]:
            if entry in spare:
                continue
            with self._try_lock(kind, entry.name) as locked:
                if locked:
                    _remove(entry)
                    removed.append(entry.name)
        return removed

    def _lock_file(self, kind: str, key: str) -> int:
        folder = self.path(kind, key).parent / LOCKS
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return os.open(folder / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise self._full(folder, 0) from error
            raise CacheError(
                f"cannot use the cache directory {self.root}: {error.strerror} ({error.filename})",
                "Run as root, or set PODWIRE_CACHE to a directory that you can write",
            ) from error

    @contextlib.contextmanager
    def _lock(self, kind: str, key: str, say: Log) -> Iterator[None]:
        descriptor = self._lock_file(kind, key)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                say(f"waiting for another run (process {holder}) that builds {kind}/{key}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _try_lock(self, kind: str, key: str) -> Iterator[bool]:
        descriptor = self._lock_file(kind, key)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def _remove_leftovers(self, kind: str, own: str) -> None:
        """Remove temporary directories whose builder is gone: nobody holds the lock of their key."""
        for item in self.path(kind, own).parent.glob(f"{TEMPORARY}*"):
            key = item.name[len(TEMPORARY) :].split("~", 1)[0]
            if key == own:
                _remove(item)
            elif _NAME.fullmatch(key):
                with self._try_lock(kind, key) as locked:
                    if locked:
                        _remove(item)

    def _check_space(self, entry: Path, need: int) -> None:
        if need and shutil.disk_usage(entry.parent).free < need:
            raise self._full(entry, need)

    @contextlib.contextmanager
    def _errors_named(self, entry: Path, need: int) -> Iterator[None]:
        try:
            yield
        except CacheError:
            raise
        except Exception as error:
            output = f"{error} {getattr(error, 'stderr', '')} {getattr(error, 'output', '')}"
            full = isinstance(error, OSError) and error.errno in _NO_SPACE
            if full or os.strerror(errno.ENOSPC) in output:
                raise self._full(entry, need) from error
            raise

    def _full(self, entry: Path, need: int) -> CacheError:
        free = shutil.disk_usage(self.root).free
        wanted = f"at least {_mebibytes(need)}" if need else "some space"
        return CacheError(
            f"the disk is full: {entry} cannot be built, {_mebibytes(free)} are free in {self.root}",
            f"Free {wanted} there (old entries of the cache may be deleted at any time), or set "
            "PODWIRE_CACHE to a directory on a larger disk",
        )


def _mebibytes(size: int) -> str:
    return f"{-(-size // (1 << 20))} MiB"


def _compare(path: Path, facts: dict[str, Any], full: bool) -> tuple[str | None, bool]:
    """What is wrong with a file, and whether its recorded times had to be renewed in ``facts``."""
    try:
        now = path.lstat()
    except OSError as error:
        return (error.strerror or str(error)), False
    if "link" in facts:
        same = stat.S_ISLNK(now.st_mode) and str(path.readlink()) == facts["link"]
        return (None if same else "is not the link it was"), False
    if not stat.S_ISREG(now.st_mode):
        return "is not a file any more", False
    if now.st_size != facts["size"]:
        return f"has {now.st_size} bytes instead of {facts['size']}", False
    times = [now.st_mtime_ns, now.st_ctime_ns]
    changed = times != facts["times"]
    if (full or changed) and _checksum(path) != facts["sha256"]:
        return "content does not match its checksum", False
    facts["times"] = times
    return None, changed


def _seal(directory: Path) -> None:
    """Flush everything below the directory to disk and write the manifest."""
    files: dict[str, Any] = {}
    for folder, folders, names in os.walk(directory):
        for name in sorted(names + [item for item in folders if Path(folder, item).is_symlink()]):
            path = Path(folder, name)
            relative = str(path.relative_to(directory))
            if path.is_symlink():
                files[relative] = {"link": str(path.readlink())}
                continue
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise CacheError(f"{path} is neither file, directory nor link and cannot be cached")
            _sync_file(path)
            facts = path.stat()
            files[relative] = {
                "size": facts.st_size,
                "sha256": _checksum(path),
                "times": [facts.st_mtime_ns, facts.st_ctime_ns],
            }
        _sync_directory(Path(folder))
    _write_file(directory / MANIFEST, json.dumps({"files": files}))
    _sync_directory(directory)


def _write_file(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a tree, also one with directories that lack the write bit."""
    if path.is_dir() and not path.is_symlink():

        def unlock(function: Any, name: str, _reason: Any) -> None:
            Path(name).parent.chmod(0o700)
            function(name)

        shutil.rmtree(path, onerror=unlock)
    else:
        path.unlink(missing_ok=True)
