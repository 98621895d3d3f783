"""Compiled objects for packet tests: built here, or brought along where there is no compiler."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache
from ansible_collections.podwire.ebpf.plugins.module_utils.datapath_build import FLAGS, build, include_flags

ROOT = Path(__file__).parents[2]
PREBUILT = "PODWIRE_TEST_DATAPATH"
"""Directory with every object below: set it where there is no compiler (other kernels' test machines)."""


def compile_objects(directory: Path) -> Path:
    """Fill ``directory`` with the datapath's objects and the tests' own; returns where they are."""
    prebuilt = os.environ.get(PREBUILT)
    if prebuilt:
        return Path(prebuilt)
    directory.mkdir(parents=True, exist_ok=True)
    built = build(ROOT / "bpf", Cache(directory / "cache"), lambda line: None)
    for path in (*built.glob("*.bpf.o"), built / "manifest.json"):
        (directory / path.name).write_bytes(path.read_bytes())
    for source in (Path(__file__).parent / "helpers").glob("*.bpf.c"):
        target = directory / source.name.replace(".c", ".o")
        command = [
            "clang",
            *FLAGS,
            *include_flags(),
            f"-I{ROOT / 'bpf'}",
            "-c",
            str(source),
            "-o",
            str(target),
        ]
        subprocess.run(command, check=True)
    return directory
