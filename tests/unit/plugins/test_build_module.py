"""What the build modules know of the cache: was something missing? Check mode makes nothing."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.build_module import TellingCache


def write(directory: Path) -> None:
    (directory / "made").write_text("1")


def test_check_mode_names_the_entry_and_makes_nothing(tmp_path: Path) -> None:
    cache = TellingCache(tmp_path, dry=True)
    entry = cache.build("kind", "key", write)
    assert cache.missing == [entry]
    assert not entry.exists()


def test_first_build_is_told_from_the_second(tmp_path: Path) -> None:
    first, second = TellingCache(tmp_path), TellingCache(tmp_path)
    entry = first.build("kind", "key", write)
    assert (entry / "made").read_text() == "1"
    assert first.missing == [entry]
    assert second.build("kind", "key", write) == entry
    assert second.missing == []


def test_damaged_entry_counts_as_missing(tmp_path: Path) -> None:
    entry = TellingCache(tmp_path).build("kind", "key", write)
    (entry / "made").write_text("something else")
    cache = TellingCache(tmp_path, dry=True)
    cache.build("kind", "key", write)
    assert cache.missing == [entry]
