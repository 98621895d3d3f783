"""The image of the Star Wars demo's server, which a node without a registry gets from us."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lab import oci, process
from lab.kubernetes.build import go_environment
from lab.process import Log

SOURCE = Path(__file__).parent / "images" / "starwars"
IMAGE = "podwire.local/starwars:1"


def inputs() -> list[Path]:
    """What decides what comes out."""
    here = Path(__file__)
    sources = [path for path in sorted(SOURCE.glob("*.go")) if not path.name.endswith("_test.go")]
    return [here, here.parent / "oci.py", *sources]


def build(directory: Path, work_dir: Path, log: Log) -> None:
    """Write ``starwars.tar`` to a directory. Raises LabError."""
    with tempfile.TemporaryDirectory(prefix="rootfs-", dir=directory) as name:
        program = Path(name, "starwars")
        log("compiling the Death Star")
        process.run(
            ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "."],
            what="compiling the Death Star",
            env=go_environment(work_dir),
            cwd=SOURCE,
        )
        oci.image(directory / "starwars.tar", IMAGE, Path(name), entrypoint=["/starwars"])
