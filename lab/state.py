"""What a lab remembers between runs, in its state directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lab.config import Lab, state_directory

FILE = "lab.json"


def read(name: str) -> dict[str, Any]:
    """The lab's memory; empty when there is none or a killed run left it half-written."""
    try:
        value = json.loads((state_directory(name) / FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


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
