"""``podwire datapath`` and ``podwire bpf`` as a user runs them, on a node of their own: mount and network
namespace, /run, /var/lib and BPF file system are private to the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_group import ControlGroup

from .conftest import KINDS, build_repository_objects

# A machine with unified control groups, of which the node has a part: as in a container.
ENTER_CGROUPS = """
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
"""
ENTER = """
set -e
mount -t tmpfs run /run
mount --bind "$STATE" /var/lib
mount -t bpf bpf /sys/fs/bpf
ip link add dev0 type veth peer name dev0p
exec cat
"""


class CliNode:
    """Runs commands inside the namespaces of a process that holds them open."""

    def __init__(self, holder: subprocess.Popen[str]) -> None:
        self._enter = ["nsenter", f"--target={holder.pid}", "--mount", "--net", "--cgroup"]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        code = "import sys; from podwire.cli.main import main; sys.exit(main())"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
        return subprocess.run(
            [*self._enter, sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )

    def json(self, *arguments: str, status: int = 0):
        done = self.run(*arguments, "-o", "json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def cli(tmp_path: Path, cgroup: ControlGroup) -> Iterator[CliNode]:
    environment = {**os.environ, "STATE": str(tmp_path)}
    join = f'echo $$ >{cgroup.path}/cgroup.procs; exec "$@"'
    unshare = ["unshare", "--mount", "--net", "--cgroup", "--propagation=private"]
    holder = subprocess.Popen(
        ["sh", "-c", join, "-", *unshare, "sh", "-c", ENTER_CGROUPS + ENTER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    holder.stdin.write("ready\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "ready\n"
    yield CliNode(holder)
    holder.communicate(timeout=10)


@pytest.fixture
def apply(cli: CliNode, kind: str) -> tuple[str, ...]:
    objects = build_repository_objects()
    return (
        "datapath", "apply", "--objects", str(objects), "--device", "dev0", "--node-ip", "192.0.2.1",
        "--attach", kind, "--map-entries", "podwire_ct4=4096",
    )  # fmt: skip


def test_apply_status_lists_and_remove(cli, apply, kind):
    told = cli.json(*apply, "--check")
    assert told["changed"] and told["facts"]["installed"] is False
    done = cli.json(*apply)
    assert (done["changed"], done["before"], done["steps"]) == (True, {"installed": False}, told["steps"])
    assert done["after"] == told["after"]
    assert done["facts"]["attach"] == kind
    assert cli.json(*apply)["changed"] is False

    status = cli.json("datapath", "status")
    assert (status["mode"], status["problems"], status["devices"][0]["name"]) == ("ebpf", [], "dev0")
    assert {item["name"]: item["max_entries"] for item in status["maps"]}["podwire_ct4"] == 4096
    assert [row["name"] for row in cli.json("bpf", "program", "list")] == [
        p["name"] for p in status["programs"]
    ]
    metrics = cli.json("bpf", "metrics", "list")
    assert {"peer", "neigh", "masqueraded"} <= {row["reason"] for row in metrics}
    table = cli.run("datapath", "status", "--entries").stdout
    assert "podwire_ct4" in table and "from_netdev, to_netdev" in table

    assert cli.json("datapath", "remove", "--check")["changed"]
    assert cli.json("datapath", "status")["installed"]
    assert cli.json("datapath", "remove")["facts"]["installed"] is False
    assert cli.json("datapath", "status", status=3)["problems"] == ["no datapath was applied"]


@pytest.mark.parametrize("kind", KINDS[:1], indirect=True)
def test_tables_that_are_empty_are_shown_as_such(cli, apply):
    cli.json(*apply)
    for kind_of_entry in (
        "endpoint",
        "ct",
        "nat",
        "masquerade",
        "ipcache",
        "frag",
        "slot",
        "service",
        "backend",
        "affinity",
    ):
        assert cli.json("bpf", kind_of_entry, "list") == []
        assert "none" in cli.run("bpf", kind_of_entry, "list").stdout


def test_errors_are_one_message_and_a_way_out(cli, apply):
    arguments = list(apply)
    arguments[arguments.index("dev0")] = "eth9"
    answer = cli.json(*arguments, status=1)
    assert answer["error"].startswith("device eth9 does not exist on this node; it has lo, ")
    assert "podwire_devices" in answer["hint"]
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: device eth9")
    assert "hint: " in done.stderr
    assert cli.json("datapath", "restore", status=1)["error"] == "no datapath is loaded on this node"
    assert "podwire_ct4" in cli.json("bpf", "ct", "list", status=1)["error"]


def test_features_are_shown(cli):
    found = cli.json("datapath", "features")
    assert found["release"] == os.uname().release
    assert found["redirect_peer"] is True


def test_restore_repeats_the_last_apply(cli, apply):
    cli.json(*apply)
    enter = [*cli._enter, "sh", "-c", "rm -r /sys/fs/bpf/podwire"]
    subprocess.run(enter, check=True)
    assert cli.json("datapath", "status", status=3)["problems"]
    assert cli.json("datapath", "restore")["changed"]
    assert cli.json("datapath", "status")["problems"] == []


def test_services_are_turned_on_for_the_nodes_own_control_groups_and_off(cli, apply, cgroup):
    done = cli.json(*apply, "--services", "--node-ports", "30000-31000", "--maglev-size", "251")
    assert "attach connect4 to control group /sys/fs/cgroup" in done["steps"]
    sockets = done["facts"]["sockets"]
    assert (sockets["enabled"], sockets["cgroup"], sockets["reason"]) == (True, "/sys/fs/cgroup", "")
    assert "at /sys/fs/cgroup" in cli.run("datapath", "status").stdout
    assert done["after"]["config"]["services"]["node_port_max"] == 31000
    assert (
        cli.json(*apply, "--services", "--node-ports", "30000-31000", "--maglev-size", "251")["steps"] == []
    )
    assert cli.json("bpf", "socket", "list") == []
    # The real thing: the programs are those of the node's part of the tree, and of nothing above.
    tree = subprocess.run(
        ["bpftool", "cgroup", "show", str(cgroup.path)], capture_output=True, text=True, check=True
    ).stdout
    assert "podwire_connect" in tree

    off = cli.json(*apply)
    assert "detach connect4 from its control group" in off["steps"]
    assert off["facts"]["sockets"]["attached"] == []
    refused = cli.run(*apply, "--services", "--maglev-size", "1000", "-o", "json")
    assert refused.returncode == 1
    assert "1000 is not a prime" in refused.stdout + refused.stderr
    assert cli.json("datapath", "remove")["changed"]
