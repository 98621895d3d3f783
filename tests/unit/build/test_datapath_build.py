"""Compiling the datapath: by content, with errors that people can read. Uses the real clang."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import datapath_build
from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import (
    CompileError,
    Message,
    build,
    parse_messages,
    read_manifest,
)
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

PROGRAM = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "lib/verdict.h"

SEC("tc")
int pass(struct __sk_buff *skb)
{
	return skb->len ? VERDICT : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "bpf"
    (directory / "lib").mkdir(parents=True)
    (directory / "pass.bpf.c").write_text(PROGRAM)
    (directory / "lib" / "verdict.h").write_text("#define VERDICT 0\n")
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def ignore(line: str) -> None:
    pass


def test_objects_and_manifest_are_built_once(source, cache):
    told = []
    first = build(source, cache, told.append)
    again = build(source, cache, told.append)
    assert first == again
    assert len([line for line in told if "compiling" in line]) == 1
    manifest = read_manifest(first)
    assert manifest["objects"].keys() == {"pass.bpf.o"}
    assert manifest["sources"].keys() == {"pass.bpf.c", "lib/verdict.h"}
    assert manifest["hash"] == first.name
    assert "clang" in manifest["compiler"]
    assert str(source) not in json.dumps(manifest)


def test_a_changed_header_or_flag_makes_another_entry(source, cache):
    first = build(source, cache, ignore)
    (source / "lib" / "verdict.h").write_text("#define VERDICT 2\n")
    second = build(source, cache, ignore)
    third = build(source, cache, ignore, defines=("EXTRA=1",))
    assert len({first, second, third}) == 3


def test_the_same_source_elsewhere_gives_the_same_objects(source, cache, tmp_path):
    first = build(source, cache, ignore)
    moved = shutil.copytree(source, tmp_path / "elsewhere")
    assert build(moved, cache, ignore) == first
    other = build(moved, Cache(tmp_path / "other"), ignore)
    assert (other / "pass.bpf.o").read_bytes() == (first / "pass.bpf.o").read_bytes()


def test_compiler_errors_name_file_line_and_cause_and_leave_no_entry(source, cache):
    (source / "pass.bpf.c").write_text(PROGRAM.replace("skb->len", "skb->lenght"))
    with pytest.raises(CompileError) as caught:
        build(source, cache, ignore)
    (message,) = caught.value.messages
    assert (message.file, message.line) == ("pass.bpf.c", 8)
    assert "lenght" in message.text
    assert "pass.bpf.c:8: no member named 'lenght'" in str(caught.value)
    assert not [path for path in (cache.root / "datapath").iterdir() if not path.name.startswith(".")]


def test_a_warning_is_an_error(source, cache):
    (source / "pass.bpf.c").write_text(PROGRAM.replace("return skb", "int unused;\n\treturn skb"))
    with pytest.raises(CompileError, match=r"unused variable 'unused'"):
        build(source, cache, ignore)


def test_all_files_are_complained_about_at_once(source, cache):
    (source / "pass.bpf.c").write_text(PROGRAM.replace("skb->len", "one"))
    (source / "other.bpf.c").write_text(PROGRAM.replace("skb->len", "two"))
    with pytest.raises(CompileError) as caught:
        build(source, cache, ignore)
    assert {message.file for message in caught.value.messages} == {"pass.bpf.c", "other.bpf.c"}


def test_a_missing_header_is_named(source, cache):
    (source / "lib" / "verdict.h").unlink()
    with pytest.raises(CompileError, match=r"pass.bpf.c:3: 'lib/verdict.h' file not found"):
        build(source, cache, ignore)


def test_no_compiler_says_what_to_install(source, cache):
    with pytest.raises(PodwireError, match="no-such-clang is not installed") as caught:
        build(source, cache, ignore, compiler="no-such-clang")
    assert "make bootstrap" in caught.value.hint


def test_an_empty_directory_is_named(tmp_path, cache):
    with pytest.raises(PodwireError, match=r"no \*.bpf.c in"):
        build(tmp_path, cache, ignore)


def test_messages_are_read_from_the_compilers_output():
    output = (
        "In file included from /src/bpf/x.bpf.c:4:\n"
        "/src/bpf/lib/nat.h:12:3: error: call to undeclared function 'f' [-Werror,-Wimplicit]\n"
        "        f();\n        ^\n"
        "/src/bpf/lib/nat.h:12:3: error: call to undeclared function 'f' [-Werror,-Wimplicit]\n"
        "/usr/include/linux/bpf.h:1:1: fatal error: 'asm/types.h' file not found\n"
        "/src/bpf/x.bpf.c:9:1: warning: only a warning\n2 errors generated.\n"
    )
    assert parse_messages(output, "/src/bpf") == [
        Message("lib/nat.h", 12, "error", "call to undeclared function 'f' [-Werror,-Wimplicit]"),
        Message("/usr/include/linux/bpf.h", 1, "fatal error", "'asm/types.h' file not found"),
    ]


def test_the_repositorys_own_datapath_compiles(cache):
    objects = build(Path(datapath_build.__file__).resolve().parents[2] / "bpf", cache, ignore)
    assert {"endpoint.bpf.o", "host.bpf.o"} <= {path.name for path in objects.iterdir()}
