"""The lab's own images: the node and the workloads, built from Debian packages."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path

import dns

from lab import oci, rootfs
from lab.process import Log, run

HERE = Path(__file__).parent
NODE = HERE / "node"
WORKLOADS = HERE / "workloads"
CLUSTER_DNS_PROGRAM = HERE / "cluster_dns"
UDP_ADDRESS = "usr/local/bin/udp-address"
PAUSE = "podwire.local/pause:1"
PROBE = "podwire.local/probe:1"
CLUSTER_DNS = "podwire.local/cluster-dns:1"

_CACHES = shutil.ignore_patterns("__pycache__")
# Services that only make sense on a machine of its own.
_MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer "
    "getty.target motd-news.timer snapd.snap-repair.timer systemd-timesyncd.service console-getty.service"
)


def build_node(directory: Path, log: Log) -> None:
    """Write ``node.tar``, the root filesystem of a lab node, to ``directory``."""
    overlay = shlex.quote(str(NODE / "rootfs"))
    server = directory / "udp-address"
    compile_static("udp-address.c", server)
    hooks = [
        'rm -f "$1"/etc/resolv.conf',
        f'cp -a --no-preserve=ownership {overlay}/. "$1"/',
        'chroot "$1" systemctl enable -q ssh.service snapd.socket',
        f'chroot "$1" systemctl mask -q {_MASKED}',
        f'install -D -m 0755 {shlex.quote(str(WORKLOADS / "address"))} "$1"/srv/www/cgi-bin/address',
        f'install -D -m 0755 {shlex.quote(str(server))} "$1"/{UDP_ADDRESS}',
        # Each node gets keys and an identity of its own when it starts.
        'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname; : >"$1"/etc/machine-id',
        'mkdir -p "$1"/etc/podwire-lab "$1"/var/log/journal',
    ]
    rootfs.build(directory / "node.tar", rootfs.read_packages(NODE / "packages.txt"), log, hooks=hooks)
    server.unlink()


def build_probe(directory: Path, log: Log) -> None:
    """Write ``probe.tar``, the image that tests send and receive with, to ``directory``."""
    with tempfile.TemporaryDirectory(prefix="rootfs-", dir=directory) as name:
        tree = Path(name)
        rootfs.extract(tree, rootfs.read_packages(WORKLOADS / "probe-packages.txt"), log)
        for folder in ("tmp", "root", "proc", "sys", "dev", "srv/www/cgi-bin", "usr/local/bin", "bin"):
            (tree / folder).mkdir(parents=True, exist_ok=True)
        if not (tree / "bin/sh").exists():
            (tree / "bin/sh").symlink_to("dash")
        add_busybox_links(tree)
        (tree / "bin/nc").symlink_to("nc.openbsd")
        (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (tree / "etc/group").write_text("root:x:0:\n")
        shutil.copy(WORKLOADS / "probe-server", tree / "usr/local/bin/probe-server")
        shutil.copy(WORKLOADS / "address", tree / "srv/www/cgi-bin/address")
        compile_static("udp-address.c", tree / UDP_ADDRESS)
        run(["ldconfig", "-r", tree], what="indexing the probe image's libraries")
        log("packing the probe image")
        oci.image(directory / "probe.tar", PROBE, tree, command=["/usr/local/bin/probe-server"])


def build_cluster_dns(directory: Path, log: Log) -> None:
    """Write ``cluster-dns.tar``: Debian's Python, the pinned dnspython of the controller, and our program."""
    with tempfile.TemporaryDirectory(prefix="rootfs-", dir=directory) as name:
        tree = Path(name)
        rootfs.extract(tree, ["python3"], log)
        program = tree / "srv"
        shutil.copytree(Path(dns.__file__).parent, program / "dns", ignore=_CACHES)
        shutil.copytree(CLUSTER_DNS_PROGRAM, program / "cluster_dns", ignore=_CACHES)
        run(["ldconfig", "-r", tree], what="indexing the libraries of the cluster DNS")
        log("packing the cluster DNS")
        oci.image(
            directory / "cluster-dns.tar",
            CLUSTER_DNS,
            tree,
            entrypoint=["/usr/bin/python3", "-B", "-m", "cluster_dns"],
            working_directory="/srv",
        )


def add_busybox_links(tree: Path) -> None:
    """Give an unpacked root filesystem busybox' commands, except where a real program is there."""
    places = [tree / place for place in ("bin", "sbin", "usr/bin", "usr/sbin")]
    for name in [*run([tree / "bin/busybox", "--list"]).stdout.split()]:
        if name not in ("busybox", "nc") and not any((place / name).exists() for place in places):
            (tree / "bin" / name).symlink_to("busybox")


def compile_static(source: str, output: Path) -> None:
    """Compile a program of ``lab/workloads`` that runs in any image."""
    run(
        ["gcc", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-o", output, WORKLOADS / source],
        what=f"compiling {source}",
    )


def build_pause(directory: Path, log: Log) -> None:
    """Write ``pause.tar``, the image of pod sandboxes, to ``directory``."""
    log("compiling pause")
    tree = directory / "rootfs"
    tree.mkdir()
    compile_static("pause.c", tree / "pause")
    oci.image(directory / "pause.tar", PAUSE, tree, entrypoint=["/pause"])
    (tree / "pause").unlink()
    tree.rmdir()
