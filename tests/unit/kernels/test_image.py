"""The test machine's archive and modules."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kernels.image import Cpio, closure
from tests.kernels.kernels import dependencies, in_load_order


def test_cpio_reads_what_was_written(tmp_path):
    image = Cpio()
    image.file("usr/bin/tool", b"#!/bin/sh\n", 0o755)
    image.link("bin", "usr/bin")
    image.file("etc/odd", b"abc")
    archive = tmp_path / "archive"
    archive.write_bytes(image.finish())
    out = tmp_path / "out"
    out.mkdir()
    with archive.open("rb") as stdin:
        subprocess.run(["busybox", "cpio", "-i", "-d"], stdin=stdin, cwd=out, check=True, capture_output=True)
    assert (out / "bin" / "tool").read_bytes() == b"#!/bin/sh\n"
    assert (out / "usr/bin/tool").stat().st_mode & 0o777 == 0o755
    assert (out / "etc/odd").read_bytes() == b"abc"


def test_modules_come_after_what_they_need(tmp_path):
    def module(name: str, depends: str) -> Path:
        path = tmp_path / f"{name}.ko"
        path.write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")
        return path

    available = {
        name: module(name, needs) for name, needs in (("a", "b,c"), ("b", "c"), ("c", ""), ("d", ""))
    }
    assert [path.stem for path in in_load_order(["a", "missing"], available)] == ["c", "b", "a"]
    assert dependencies(b"no such field") == []


def test_requirements_are_followed():
    found = closure(["pytest"])
    assert {"pytest", "pluggy", "iniconfig", "packaging"} <= found
