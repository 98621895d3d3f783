"""What a lab remembers between runs, in its state directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab.config import DEFAULT_NAME, ROOT, Lab, state_directory

FILE = "lab.json"


def read(name: str) -> dict[str, Any]:
    """The lab's memory; empty when there is none or a killed run left it half-written."""
    try:
        value = json.loads((state_directory(name) / FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def artifacts_in_use() -> set[Path]:
    """The cache entries that the labs of this checkout were made from and still name."""
    names = [path.name.removeprefix(".lab-") for path in ROOT.glob(".lab-*")]
    remembered = [read(name).get("artifacts", {}) for name in (DEFAULT_NAME, *names)]
    return {Path(path) for paths in remembered for path in paths.values()}


def write(lab: Lab, artifacts: dict[str, Path]) -> None:
    """Remember the lab: the inventory is made from this."""
    lab.state.mkdir(mode=0o700, exist_ok=True)
    value = {
        "name": lab.name,
        "index": lab.index,
        "nodes": {node: lab.address(node) for node in lab.nodes},
        "control_plane": list(lab.control_plane),
        "workers": list(lab.workers),
        "world": lab.address("world"),
        "gateway": lab.gateway,
        "artifacts": {name: str(path) for name, path in artifacts.items()},
    }
    temporary = lab.state / f"{FILE}.new"
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(lab.state / FILE)
