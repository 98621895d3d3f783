"""Parts of the node bundle. That it installs is tested in tests/integration/bundle."""

from __future__ import annotations

import gzip
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.bundle import (
    GLIBC,
    PYTHONS,
    build_cni,
    check_glibc,
    find_library,
    glibc_needed,
    platforms,
    read_pins,
    version_of,
    write_archive,
    write_manifest,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

ROOT = Path(__file__).parents[3]


def test_pins_have_names_versions_and_a_limit():
    pins = read_pins('# why\naiohttp==3.14.5   # http\n\nasync-timeout==5.0.1; python_version < "3.11"\n')
    assert [(pin.name, pin.version, pin.below) for pin in pins] == [
        ("aiohttp", "3.14.5", ""),
        ("async-timeout", "5.0.1", "3.11"),
    ]
    assert [pins[1].wanted(python) for python in PYTHONS] == [True, False, False, False]


@pytest.mark.parametrize("line", ["aiohttp>=3", "aiohttp", "-r other.txt", 'x==1; sys_platform == "linux"'])
def test_what_is_no_exact_pin_is_named_with_its_line(line):
    with pytest.raises(PodwireError, match=r"node\.txt:2: .* is not an exact pin"):
        read_pins(f"aiohttp==3.14.5\n{line}\n")


def test_our_own_pins_cover_what_the_package_asks_for():
    pinned = {
        pin.name.lower().replace("_", "-") for pin in read_pins((ROOT / "requirements/node.txt").read_text())
    }
    text = (ROOT / "pyproject.toml").read_text()
    wanted = text.split("dependencies = [", 1)[1].split("]", 1)[0]
    names = {
        line.strip(' ",').split(">")[0].split("=")[0].lower() for line in wanted.splitlines() if line.strip()
    }
    assert names <= pinned
    assert "pip" in pinned


def test_wheels_may_not_ask_for_more_than_the_oldest_node_has():
    tags = platforms()
    assert f"manylinux_2_{GLIBC[1]}_x86_64" in tags
    assert f"manylinux_2_{GLIBC[1] + 1}_x86_64" not in tags
    assert {"manylinux2014_x86_64", "manylinux_2_28_x86_64"} <= set(tags)


def test_the_newest_symbol_version_counts():
    assert glibc_needed(b"\0GLIBC_2.2.5\0GLIBC_2.33\0GLIBC_2.4\0") == (2, 33)
    assert glibc_needed(b"\0GLIBC_PRIVATE\0") == (0, 0)


def test_a_library_that_needs_a_newer_c_library_is_refused(tmp_path):
    library = tmp_path / "libnew.so.1"
    library.write_bytes(b"\0GLIBC_2.38\0")
    with pytest.raises(PodwireError, match=r"libnew\.so\.1 needs glibc 2\.38, nodes may have 2\.35"):
        check_glibc(library)


def test_this_machines_libbpf_will_do():
    check_glibc(find_library("libbpf.so.1"))
    with pytest.raises(PodwireError, match=r"libnothing\.so\.9 is not installed"):
        find_library("libnothing.so.9")


def test_the_cni_plugin_is_static_and_errors_are_shown(tmp_path):
    build_cni(ROOT / "cni", tmp_path / "bin" / "podwire-cni")
    shown = subprocess.run(
        ["ldd", tmp_path / "bin" / "podwire-cni"], capture_output=True, text=True, check=False
    )
    assert "not a dynamic executable" in shown.stdout + shown.stderr
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "main.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(PodwireError, match=r"main\.c:1.*nothing"):
        build_cni(broken, tmp_path / "out")
    with pytest.raises(PodwireError, match="no C file"):
        build_cni(tmp_path / "empty", tmp_path / "out")


def test_the_archive_is_the_same_for_the_same_content(tmp_path):
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "tool").write_text("x")
    (tree / "bin" / "tool").chmod(0o700)
    (tree / "secret").write_text("y")
    (tree / "secret").chmod(0o600)
    write_manifest(tree, "1.0", "abcdef0123456789")
    write_archive(tree, tmp_path / "one.tar.gz")
    (tree / "bin" / "tool").touch()
    write_archive(tree, tmp_path / "two.tar.gz")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with gzip.open(tmp_path / "one.tar.gz") as raw, tarfile.open(fileobj=raw) as archive:
        modes = {member.name: (member.mode, member.uid, member.mtime) for member in archive}
    assert modes["bin/tool"] == (0o755, 0, 0)
    assert modes["secret"] == (0o644, 0, 0)


def test_the_version_is_that_of_the_package():
    import podwire

    assert version_of(ROOT) == podwire.__version__
