#!/usr/bin/env python3
"""Inventory of a lab that `make up` made: `LAB=name ansible-playbook -i inventories/lab ...`.

Groups: control_plane, workers, pod_nodes (both). What all labs share is in group_vars.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def state_directory():
    """Where the lab named by the environment variable LAB keeps its state."""
    name = os.environ.get("LAB") or "podwire"
    return ROOT / (".lab" if name == "podwire" else f".lab-{name}")


def inventory(state, directory):
    """Ansible's JSON for the lab's state."""
    login = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(directory / "ssh_key"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={directory / 'known_hosts'} -o IdentitiesOnly=yes",
        # Ansible's own default compresses, which on a link inside one machine only costs time.
        "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=120s -o Ciphers=aes128-gcm@openssh.com",
        "podwire_lab": state,
        "podwire_lab_directory": str(directory),
    }
    return {
        "_meta": {"hostvars": {name: {"ansible_host": address} for name, address in state["nodes"].items()}},
        "all": {"children": ["pod_nodes"], "vars": login},
        "pod_nodes": {"children": ["control_plane", "workers"]},
        "control_plane": {"hosts": state["control_plane"]},
        "workers": {"hosts": state["workers"]},
    }


def main():
    """Print the inventory, or say what is missing."""
    directory = state_directory()
    try:
        state = json.loads((directory / "lab.json").read_text())
    except FileNotFoundError:
        sys.exit(f"there is no lab in {directory}: run make up (LAB=name chooses another lab)")
    except ValueError as error:
        sys.exit(f"{directory / 'lab.json'} is damaged ({error}): run make up again")
    if sys.argv[1:2] == ["--host"]:
        print(json.dumps({}))
    else:
        print(json.dumps(inventory(state, directory), indent=2))


if __name__ == "__main__":
    main()
