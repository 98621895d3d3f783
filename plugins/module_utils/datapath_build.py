# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Compile the datapath: ``bpf/*.bpf.c`` to CO-RE objects, cached by everything that goes into them.

The key covers sources, headers (ours and the system's that the sources include), flags and the compiler's own
version; an unchanged tree costs a few file reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ansible_collections.podwire.ebpf.plugins.module_utils.cache import Cache, fingerprint
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

KIND = "datapath"
MANIFEST = "manifest.json"
# Version 3 of the BPF instruction set (kernel 5.1 on) has 32-bit jumps: shorter programs that the verifier
# understands better. The floor of the datapath is above it.
FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-Wall", "-Wextra", "-Werror")
_MESSAGE = re.compile(
    r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: (?P<kind>fatal error|error|warning): (?P<text>.*)$", re.MULTILINE
)
_OUTPUT_LIMIT = 4000

Log = Callable[[str], Any]


class Message(NamedTuple):
    """One complaint of the compiler; ``file`` is relative to the source directory where it lies in it."""

    file: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class CompileError(PodwireError):
    """The compiler refused the datapath; ``messages`` are its complaints, the first is usually the cause."""

    def __init__(self, messages: list[Message], output: str) -> None:
        self.messages = messages
        shown = [str(message) for message in messages] or [output.strip()[-_OUTPUT_LIMIT:]]
        super().__init__(
            "the datapath does not compile:\n  " + "\n  ".join(shown),
            "Fix the first message; warnings count as errors.",
            {"messages": [message._asdict() for message in messages]},
        )


def parse_messages(output: str, source: str) -> list[Message]:
    """The errors in a compiler's output; with -Werror a warning that failed the build says "error" too."""
    found = []
    for match in _MESSAGE.finditer(output):
        if match["kind"] == "warning":
            continue
        name = os.path.relpath(match["file"], source) if match["file"].startswith(source) else match["file"]
        message = Message(name, int(match["line"]), match["kind"], match["text"])
        if message not in found:
            found.append(message)
    return found


def find_compiler(wanted: str = "clang") -> str:
    """Path of clang. Raises PodwireError saying what to install."""
    found = shutil.which(wanted)
    if not found:
        raise PodwireError(
            f"{wanted} is not installed on the machine that builds the datapath",
            "Install Debian's clang, libbpf-dev and linux-libc-dev there (make bootstrap does).",
        )
    return found


def include_flags() -> list[str]:
    """Where asm/types.h lives: a multiarch directory that clang does not search for the target bpf."""
    return ["-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu"]


def build(
    source: Path, cache: Cache, log: Log, *, compiler: str = "clang", defines: tuple[str, ...] = ()
) -> Path:
    """Compile the objects of directory ``source``; return the cache entry that holds them and a manifest.

    ``defines`` are preprocessor definitions (``NAME`` or ``NAME=VALUE``). Raises CompileError with the
    compiler's messages, PodwireError when there is no compiler or nothing to compile.
    """
    source = Path(source).resolve()
    sources = sorted(source.glob("*.bpf.c"))
    if not sources:
        raise PodwireError(f"there is no *.bpf.c in {source}", "Name the directory with the datapath's C.")
    clang = find_compiler(compiler)
    version = _run([clang, "--version"]).stdout.splitlines()[0]
    flags = [*FLAGS, *include_flags(), f"-I{source}", *(f"-D{name}" for name in defines)]
    flags_without_paths = [flag for flag in flags if flag != f"-I{source}"]
    key = fingerprint(
        version, "\n".join(flags_without_paths), source, *_system_headers(clang, flags, sources, source)
    )

    def compile_all(directory: Path) -> None:
        log(f"compiling {len(sources)} datapath objects with {version}")
        messages: list[Message] = []
        output = ""
        for file in sources:
            target = directory / f"{file.name[: -len('.c')]}.o"
            # The object must not depend on where the tree lies: paths in its debug information are relative.
            mapped = f"-ffile-prefix-map={source}=bpf"
            done = _run([clang, *flags, mapped, "-c", str(file), "-o", str(target)])
            if done.returncode:
                output += done.stderr
                messages += [new for new in parse_messages(done.stderr, str(source)) if new not in messages]
        if output:
            raise CompileError(messages, output)
        manifest = {
            "hash": key,
            "compiler": version,
            "flags": flags_without_paths,
            "sources": {str(path.relative_to(source)): _checksum(path) for path in _tree(source)},
            "objects": {path.name: _checksum(path) for path in sorted(directory.glob("*.o"))},
        }
        (directory / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")

    return cache.build(KIND, key, compile_all, log=log)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest that ``build`` wrote."""
    manifest: dict[str, Any] = json.loads((Path(directory) / MANIFEST).read_text())
    return manifest


def _system_headers(clang: str, flags: list[str], sources: list[Path], source: Path) -> list[Path]:
    """Headers outside the tree that the sources include; an error here shows itself when compiling."""
    found: set[Path] = set()
    for file in sources:
        done = _run([clang, *flags, "-M", str(file)])
        for name in done.stdout.replace("\\\n", " ").split()[1:]:
            path = Path(name).resolve()
            if source not in path.parents and path.is_file():
                found.add(path)
    return sorted(found)


def _tree(source: Path) -> list[Path]:
    return sorted([*source.glob("*.c"), *source.rglob("*.h")])


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL
    )
