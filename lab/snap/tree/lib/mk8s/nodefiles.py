"""What a fresh node holds, and how a node becomes fresh again."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
from pathlib import Path

from . import argsfile, certs, files, host, kubeconfig, network
from .layout import Layout

CONTROL_PLANE_LOCKS = (
    "installed.lock",
    "lite.lock",
    "ha-cluster",
    "no-etcd",
    "no-flanneld",
    "no-apiserver-proxy",
)
WORKER_LABELS = "microk8s.io/cluster=true,node.kubernetes.io/microk8s-worker=microk8s-worker"
DATA_DIRECTORIES = (
    "var/lock",
    "var/lib/calico",
    "var/run/calico",
    "var/kubernetes/backend",
    "args/certs.d",
    "args/traefik",
)
COMMON_DIRECTORIES = (
    "run",
    "etc/sideload",
    "etc/launcher",
    "hooks/reconcile.d",
    "hooks/post-refresh.d",
    "hooks/remove.d",
    "plugins",
    "var/lib/kubelet",
    "var/lib/containerd",
)
LINKS = {
    "/etc/cni/net.d": "args/cni-network",
    "/opt/cni/bin": "opt/cni/bin",
    "/var/lib/calico": "var/lib/calico",
}


def install_arguments(layout: Layout) -> None:
    """Every args file as the snap brings it."""
    for source in sorted((layout.snap / "default-args").iterdir()):
        files.write(layout.args(source.name), source.read_text())


def restore_arguments(layout: Layout, *components: str) -> None:
    """Single args files as the snap brings them."""
    for component in components:
        files.write(layout.args(component), (layout.snap / "default-args" / component).read_text())


def create_cluster_identity(layout: Layout) -> None:
    """Certificates, credentials and datastore of a one-node cluster that nobody has joined yet."""
    for directory in (layout.cert(""), layout.credential(""), layout.backend):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
    certs.create_cluster(layout, host.hostname(), host.addresses())
    kubeconfig.create_all(layout)
    for name in ("cluster-tokens.txt", "persistent-cluster-tokens.txt", "certs-request-tokens.txt"):
        files.write(layout.credential(name), "")
    files.write(layout.backend / "cluster.yaml", backend_members(["127.0.0.1"]))


def backend_members(addresses: list[str]) -> str:
    """The text of cluster.yaml: who keeps the datastore."""
    return "".join(f"- Address: {address}:19001\n  Role: 0\n" for address in addresses)


def backend_addresses(layout: Layout) -> list[str]:
    """The addresses, with port, in cluster.yaml."""
    lines = files.read(layout.backend / "cluster.yaml").splitlines()
    return [line.split("Address:", 1)[1].strip() for line in lines if "Address:" in line]


def create_directories(layout: Layout) -> None:
    for path in DATA_DIRECTORIES:
        (layout.data / path).mkdir(parents=True, exist_ok=True)
    for path in COMMON_DIRECTORIES:
        (layout.common / path).mkdir(parents=True, exist_ok=True)


def link_host_paths(layout: Layout) -> None:
    """Well-known host paths lead into the snap's data, unless something is there already."""
    targets = {path: layout.current / target for path, target in LINKS.items()}
    targets["/var/lib/kubelet"] = layout.common / "var/lib/kubelet"
    for path, target in targets.items():
        link = Path(path)
        if not link.exists() and not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)


def unlink_host_paths(layout: Layout) -> None:
    for path in (*LINKS, "/var/lib/kubelet"):
        link = Path(path)
        if link.is_symlink() and str(link.readlink()).startswith(str(layout.data.parent)):
            link.unlink()


def protect(layout: Layout) -> None:
    """Group microk8s may read and write the data, others nothing."""
    try:
        group = grp.getgrnam("microk8s").gr_gid
    except KeyError:
        subprocess.run(["groupadd", "--system", "microk8s"], check=False)
        try:
            group = grp.getgrnam("microk8s").gr_gid
        except KeyError:
            return
    for directory in ("args", "certs", "credentials"):
        for path in [layout.data / directory, *(layout.data / directory).rglob("*")]:
            if not path.is_symlink():
                os.chown(path, 0, group)
                path.chmod(0o770 if path.is_dir() else 0o660)


def sideload_bundled_images(layout: Layout) -> None:
    """Queue the images that come with the snap, and those laid ready before the installation."""
    target = layout.common / "etc" / "sideload"
    sources = (
        layout.snap / "images",
        layout.common / "sideload",
        Path("/root/snap/microk8s/common/sideload"),
    )
    for directory in sources:
        for tarball in sorted(directory.glob("*.tar")) if directory.is_dir() else ():
            shutil.copyfile(tarball, target / f".{tarball.name}.part")
            (target / f".{tarball.name}.part").rename(target / tarball.name)


def become_control_plane(layout: Layout) -> None:
    """The flag files of a control-plane node."""
    for name in ("clustered.lock", "no-k8s-dqlite"):
        layout.set_lock(name, False)
    for name in CONTROL_PLANE_LOCKS:
        layout.set_lock(name)


def become_worker(layout: Layout) -> None:
    """The flag files and arguments of a worker."""
    layout.set_lock("clustered.lock")
    layout.set_lock("no-k8s-dqlite")
    layout.set_lock("no-apiserver-proxy", False)
    argsfile.update(layout.args("kubelite"), {"--start-control-plane": "false"})
    argsfile.update(layout.args("kubelet"), {"--node-labels": WORKER_LABELS})


def install(layout: Layout) -> None:
    """The install hook: everything the services need at their first start."""
    create_directories(layout)
    install_arguments(layout)
    become_control_plane(layout)
    create_cluster_identity(layout)
    network.link_plugins(layout, layout.snap.parent / "current")
    network.install_manifest(layout)
    sideload_bundled_images(layout)
    link_host_paths(layout)
    protect(layout)
