"""The build cache: entries are whole or absent, whatever happens on the way."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plugins.module_utils import cache as cache_module
from plugins.module_utils.cache import MANIFEST, Cache, CacheError, fingerprint

ROOT = Path(__file__).parents[2]


def write(text="content"):
    def builder(directory):
        (directory / "file").write_text(text)
        (directory / "folder").mkdir()
        (directory / "folder" / "inner").write_bytes(b"\0" * 5000)
        (directory / "link").symlink_to("file")

    return builder


def forbidden(directory):
    raise AssertionError("was built again")


@pytest.fixture
def lines():
    return []


@pytest.fixture
def cache(tmp_path, lines):
    return Cache(tmp_path / "cache", log=lines.append)


def leftovers(cache):
    return [item.name for item in (cache.root / "kind").glob(".tmp~*")]


def test_builds_once_then_reuses(cache):
    entry = cache.build("kind", "key", write())
    assert (entry / "file").read_text() == "content"
    assert cache.build("kind", "key", forbidden) == entry
    assert cache.get("kind", "key") == entry


def test_get_of_an_absent_entry_is_none_and_silent(cache, lines):
    assert cache.get("kind", "key") is None
    assert lines == []


def test_entry_survives_a_new_cache_object(cache):
    entry = cache.build("kind", "key", write())
    assert Cache(cache.root).get("kind", "key") == entry


def truncate(entry):
    os.truncate(entry / "folder" / "inner", 10)


def flip(entry):
    facts = (entry / "file").stat()
    (entry / "file").write_text("c0ntent")
    os.utime(entry / "file", ns=(facts.st_atime_ns, facts.st_mtime_ns))


def lose(entry):
    (entry / "file").unlink()


def retarget(entry):
    (entry / "link").unlink()
    (entry / "link").symlink_to("/etc/passwd")


def replace_by_folder(entry):
    (entry / "file").unlink()
    (entry / "file").mkdir()


def no_manifest(entry):
    (entry / MANIFEST).unlink()


def broken_manifest(entry):
    (entry / MANIFEST).write_text('{"files": {"file": {"si')


def foreign_manifest(entry):
    (entry / MANIFEST).write_text('["files"]')


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(truncate, "folder/inner: has 10 bytes instead of 5000", id="shorter file"),
        pytest.param(flip, "file: content does not match", id="other content, same size and mtime"),
        pytest.param(lose, "file: No such file", id="lost file"),
        pytest.param(retarget, "link: is not the link", id="link to elsewhere"),
        pytest.param(replace_by_folder, "file: is not a file", id="directory in a file's place"),
        pytest.param(no_manifest, "no manifest", id="no manifest"),
        pytest.param(broken_manifest, "unreadable manifest", id="half a manifest"),
        pytest.param(foreign_manifest, "unreadable manifest", id="manifest of another shape"),
    ],
)
def test_damage_is_named_and_rebuilt(cache, lines, damage, named):
    entry = cache.build("kind", "key", write())
    damage(entry)
    assert cache.get("kind", "key") is None
    assert str(entry) in lines[0] and named in lines[0]
    assert cache.build("kind", "key", write("new")) == entry
    assert (entry / "file").read_text() == "new"
    assert cache.damage("kind", "key", full=True) is None


def test_restored_copy_with_other_times_counts_as_whole(cache):
    entry = cache.build("kind", "key", write())
    before = json.loads((entry / MANIFEST).read_text())
    os.utime(entry / "file", ns=(1, 1))
    assert cache.get("kind", "key") == entry
    assert json.loads((entry / MANIFEST).read_text()) != before  # the next look is quick again
    assert cache.get("kind", "key") == entry


def test_failed_build_leaves_nothing_and_its_error_passes_through(cache):
    def builder(directory):
        write()(directory)
        raise KeyError("compiler says no")

    with pytest.raises(KeyError, match="compiler says no"):
        cache.build("kind", "key", builder)
    assert cache.get("kind", "key") is None
    assert leftovers(cache) == []


def test_failed_build_with_unwritable_directories_leaves_nothing(cache):
    def builder(directory):
        write()(directory)
        (directory / "folder").chmod(0o500)
        raise KeyError

    with pytest.raises(KeyError):
        cache.build("kind", "key", builder)
    assert leftovers(cache) == []


KILLED = """
import os, signal, sys
from plugins.module_utils.cache import Cache
def builder(directory):
    (directory / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
Cache(sys.argv[1]).build("kind", sys.argv[2], builder)
"""


@pytest.mark.parametrize("killed", ["key", "another-key"])
def test_next_build_removes_what_a_killed_one_left(cache, killed):
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(cache.root), killed], cwd=ROOT, check=False, timeout=60
    )
    assert result.returncode == -signal.SIGKILL
    assert len(leftovers(cache)) == 1
    assert cache.get("kind", killed) is None
    cache.build("kind", "key", write())
    assert leftovers(cache) == []


def build_slowly(root, counter):
    def builder(directory):
        with counter.get_lock():
            counter.value += 1
        time.sleep(0.3)
        write()(directory)

    Cache(root).build("kind", "key", builder)


def test_parallel_processes_build_once(cache):
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    processes = [context.Process(target=build_slowly, args=(cache.root, counter)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert counter.value == 1
    assert cache.get("kind", "key")


def test_waiting_says_so_and_running_builds_keep_their_temporary_directory(cache, lines):
    started, release = threading.Event(), threading.Event()

    def builder(directory):
        (directory / "file").write_text("slow")
        started.set()
        assert release.wait(30)

    slow = threading.Thread(target=cache.build, args=("kind", "slow", builder))
    slow.start()
    assert started.wait(30)
    cache.build("kind", "other", write())  # must not tidy away the running build
    assert len(leftovers(cache)) == 1
    waiter = threading.Thread(target=cache.build, args=("kind", "slow", forbidden))
    waiter.start()
    deadline = time.monotonic() + 30
    while not any("waiting" in line for line in lines) and time.monotonic() < deadline:
        time.sleep(0.01)
    release.set()
    slow.join(30)
    waiter.join(30)
    assert any(f"process {os.getpid()}" in line and "kind/slow" in line for line in lines)
    assert (cache.get("kind", "slow") / "file").read_text() == "slow"


def out_of_space(directory):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory / "big"))


def tool_out_of_space(directory):
    raise subprocess.CalledProcessError(2, "cc", stderr="cc1: error: No space left on device")


@pytest.mark.parametrize("builder", [out_of_space, tool_out_of_space])
def test_full_disk_names_path_and_need(cache, builder):
    with pytest.raises(CacheError) as caught:
        cache.build("kind", "key", builder, need=1 << 20)
    message = str(caught.value)
    assert str(cache.root / "kind" / "key") in message
    assert "at least 1 MiB" in message and "PODWIRE_CACHE" in message
    assert leftovers(cache) == []


def test_build_does_not_begin_without_the_space_it_needs(cache):
    free = shutil.disk_usage(cache.root.parent).free
    with pytest.raises(CacheError, match="the disk is full"):
        cache.build("kind", "key", forbidden, need=free * 2)


def test_really_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "cache-test", disk], check=True)
    try:
        cache = Cache(disk)

        def builder(directory):
            (directory / "big").write_bytes(b"x" * (2 << 20))

        with pytest.raises(CacheError, match="the disk is full"):
            cache.build("kind", "key", builder)
        assert leftovers(cache) == []
        cache.build("kind", "key", write())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_unusable_root_names_it_and_the_way_out(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(CacheError, match="PODWIRE_CACHE") as caught:
        Cache(tmp_path / "file").build("kind", "key", write())
    assert str(tmp_path / "file") in str(caught.value)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".tmp~x", "a b", "x" * 201, "a\n"])
def test_names_that_are_no_plain_names_are_refused(cache, name):
    with pytest.raises(CacheError, match="not a plain name"):
        cache.build("kind", name, forbidden)
    with pytest.raises(CacheError, match="not a plain name"):
        cache.get(name, "key")


def test_sockets_and_pipes_cannot_be_cached(cache):
    with pytest.raises(CacheError, match="neither file"):
        cache.build("kind", "key", lambda directory: os.mkfifo(directory / "pipe"))
    assert cache.get("kind", "key") is None


def test_discard(cache):
    cache.build("kind", "key", write())
    assert cache.discard("kind", "key") is True
    assert cache.discard("kind", "key") is False
    assert cache.get("kind", "key") is None


def test_prune_keeps_the_most_recently_used(cache):
    for number, key in enumerate("abc"):
        os.utime(cache.build("kind", key, write()), (number, number))
    cache.get("kind", "a")
    assert cache.prune("kind", keep=2) == ["b"]
    assert cache.get("kind", "a") and cache.get("kind", "c")
    assert cache.prune("unknown", keep=1) == []


def test_prune_spares_what_is_in_use(cache):
    paths = [cache.build("kind", key, write()) for key in "abc"]
    for number, path in enumerate(paths):
        os.utime(path, (number, number))
    assert cache.prune("kind", keep=1, spare={paths[0]}) == ["b"]


def test_default_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PODWIRE_CACHE", str(tmp_path))
    assert Cache().root == tmp_path
    monkeypatch.setenv("PODWIRE_CACHE", "")
    assert Cache().root == Path("/var/cache/podwire")


def test_a_relative_root_stays_where_it_was_given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cache = Cache("here")
    monkeypatch.chdir("/")
    assert cache.root == tmp_path / "here"


def test_fingerprint_depends_on_content_names_and_order_only(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "file").write_text("same")
    os.utime(second / "file", (1, 1))
    (second / "__pycache__").mkdir()
    (second / "__pycache__" / "x.pyc").write_text("noise")
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    before = fingerprint(second)
    (second / "file").rename(second / "other")
    assert fingerprint(second) != before
    before = fingerprint(second)
    (second / "other").chmod(0o755)
    assert fingerprint(second) != before


def test_fingerprint_of_a_missing_path_fails(tmp_path):
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "missing")


def test_module_needs_only_the_standard_library():
    probe = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import plugins.module_utils.cache;"
        "print([name for name in sys.modules if name.startswith('ansible')])"
    )
    result = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", probe],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]", cache_module.__name__
