"""The lab's machines: started, resumed after crashes, removed without a trace. Needs root and podman."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from lab import artifacts, containers, nodes, underlay, up
from lab.config import node_names, state_directory
from lab.progress import Progress

NAME, OTHER = "it-one", "it-two"
MEMBERS = node_names(1)


def traces(name):
    """Everything on this machine that belongs to a lab."""
    found = [item.name for item in containers.find(name)]
    found += containers.volumes(name) + underlay.links_of(name)
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"podwire-{name}-" in line]
    return found + ([str(state_directory(name))] if state_directory(name).exists() else [])


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    assert os.geteuid() == 0, "these tests make containers and links: run them as root"
    progress = Progress(Console(file=io.StringIO()), tmp_path_factory.mktemp("logs"))
    made = artifacts.build(progress, ["node"])["node"]
    return containers.load_image(made / "node.tar", made.name, lambda line: None)


@pytest.fixture(scope="module")
def start(image):
    """Starts a lab, or resumes it; both labs are removed at the end."""

    def begin(name=NAME):
        lab = underlay.ensure_bridge(name, MEMBERS)
        nodes.start(lab, image, lambda line: None)
        return lab

    up.down(NAME)
    up.down(OTHER)
    yield begin
    up.down(NAME)
    up.down(OTHER)


def on(lab, command):
    return nodes.ssh(lab, "cp1", [command]).stdout.strip()


def one(lab, member="cp1"):
    return next(item for item in containers.find(lab.name) if item.name == lab.container(member))


def kill(process_id):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)


def kill_without_telling_podman(container):
    """As when the machine's processes are killed: monitor first, so that nobody records the exit."""
    parent = int(Path(f"/proc/{container.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert "conmon" in Path(f"/proc/{parent}/comm").read_text()
    kill(parent)
    kill(container.pid)
    deadline = time.monotonic() + 20
    stat = Path(f"/proc/{container.pid}/stat")
    # Where nobody waits for orphans it stays as a zombie.
    while stat.exists() and ") Z " not in stat.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_node_is_a_machine_of_its_own(start):
    lab = start()
    assert on(lab, "systemctl is-active ssh snapd.socket") == "active\nactive"
    assert on(lab, "stat -f -c %T /sys/fs/bpf") == "bpf_fs"
    assert on(lab, "grep -c ' /sys/fs/cgroup/systemd ' /proc/self/mountinfo") == "1"
    assert on(lab, "ls /sys/fs/cgroup/unified/system.slice | grep -c ssh.service") == "1"
    assert on(lab, "stat -f -c %T /var/snap /var/lib/snapd /var/lib/containerd | sort -u") != "overlayfs"
    assert on(lab, "getent hosts world").split() == [lab.address("world"), "world"]


def test_the_world_tells_the_clients_address(start):
    lab = start()
    address = lab.address("world")
    assert on(lab, f"curl -s -m 5 http://{address}:8080/cgi-bin/address") == lab.address("cp1")
    assert on(lab, f"echo x | nc -u -W 1 -w 5 {address} 8081") == lab.address("cp1")


def test_the_world_has_no_way_to_pods(start):
    lab = start()
    routes = subprocess.run(
        ["nsenter", f"--net=/proc/{one(lab, 'world').pid}/ns/net", "ip", "-4", "route"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[0] for line in routes.splitlines()] == [str(lab.subnet)]


def test_starting_again_changes_nothing(start):
    lab = start()
    before = [(item.id, item.pid) for item in containers.find(NAME)]
    start()
    assert [(item.id, item.pid) for item in containers.find(lab.name)] == before


def test_two_labs_live_side_by_side(start):
    first, second = start(), start(OTHER)
    assert first.subnet != second.subnet
    assert on(first, "hostname -I").split() == [first.address("cp1")]
    assert on(second, "hostname -I").split() == [second.address("cp1")]
    # Pins of one are not seen by the other, though both share the kernel.
    on(first, "mkdir /sys/fs/bpf/only-here")
    assert "only-here" not in on(second, "ls /sys/fs/bpf")
    up.down(OTHER)
    assert traces(OTHER) == []
    assert "only-here" in on(first, "ls /sys/fs/bpf")


def test_a_rebooted_node_keeps_its_disks_and_nothing_else(start):
    lab = start()
    before = one(lab)
    on(lab, "touch /var/snap/disk /etc/disk /run/memory && mkdir /sys/fs/bpf/memory")
    nodes.reboot(lab, "cp1")
    assert one(lab).id == before.id and one(lab).pid != before.pid
    assert on(lab, "ls /var/snap/disk /etc/disk") == "/etc/disk\n/var/snap/disk"
    assert on(lab, "ls -d /run/memory /sys/fs/bpf/memory 2>/dev/null | wc -l") == "0"
    assert on(lab, f"curl -s -m 5 http://{lab.address('world')}:8080/cgi-bin/address") == lab.address("cp1")


def test_killed_node_that_podman_still_lists_is_switched_on_again(start):
    lab = start()
    on(lab, "echo kept >/var/snap/file")
    before = one(lab)
    kill_without_telling_podman(before)
    assert not one(lab).alive
    start()
    assert one(lab).id == before.id
    assert on(lab, "cat /var/snap/file") == "kept"
    assert on(lab, f"curl -s -m 5 http://{lab.address('world')}:8080/cgi-bin/address") == lab.address("cp1")


def test_lost_cable_is_laid_again(start):
    lab = start()
    subprocess.run(["ip", "link", "delete", lab.link("cp1")], check=True)
    start()
    assert on(lab, "true") == ""


def test_lost_state_directory_means_new_machines(start):
    lab = start()
    before = one(lab)
    shutil.rmtree(lab.state)
    start()
    assert one(lab).id != before.id


def test_half_made_lab_is_completed(start):
    lab = start()
    containers.remove_one(lab.container("world"), one(lab, "world").id)
    start()
    assert one(lab, "world").alive


@pytest.mark.parametrize("lose_state", [False, True], ids=["with state", "without state"])
def test_down_leaves_nothing(start, lose_state):
    lab = start()
    ids = [item.id for item in containers.find(NAME)]
    on(lab, "mkdir -p /sys/fs/cgroup/unified/kubepods/pod1 /sys/fs/cgroup/memory/kubepods/pod1")
    if lose_state:
        shutil.rmtree(lab.state)
        kill_without_telling_podman(one(lab))
    assert up.down(NAME)
    assert traces(NAME) == []
    left = subprocess.run(
        ["find", "/sys/fs/cgroup", "-name", "libpod-*"], capture_output=True, text=True, check=False
    )
    assert [line for line in left.stdout.splitlines() if any(name in line for name in ids)] == []
    assert up.down(NAME) == []
