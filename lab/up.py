"""From nothing, or from whatever an earlier run left, to a checked cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import artifacts, checks, containers, dns, nodes, rollout, state, underlay
from lab.config import DEFAULT_NODES, Lab, check_name, node_names
from lab.errors import LabError
from lab.progress import Progress

SIDELOAD = "root/snap/microk8s/common/sideload"


def wanted_nodes(name: str, count: int | None) -> tuple[str, ...]:
    """The nodes to bring up: as many as asked for, else as many as the lab has, else three."""
    present = len(state.read(name).get("nodes", {}))
    return node_names(count or present or DEFAULT_NODES)


def existing(name: str) -> Lab:
    """The lab that runs. ``LabError`` when there is none."""
    remembered = state.read(check_name(name))
    if not remembered:
        raise LabError(f"there is no lab {name}", "Run make up (with LAB=name for another one)")
    return Lab(name=name, index=remembered["index"], nodes=tuple(remembered["nodes"]))


def machines(name: str, count: int | None, progress: Progress) -> Lab:
    """Build what is missing and start the lab's machines."""
    members = wanted_nodes(check_name(name), count)
    paths = artifacts.build(progress)
    with progress.step("machines") as step:
        key = paths["node"].name
        image = containers.load_image(paths["node"] / "node.tar", key, step.log)
        lab = underlay.ensure_bridge(name, members)
        state.write(lab, paths)
        nodes.start(lab, image, step.log)
        sideload(lab, paths["workloads"], paths["cluster-dns"], paths["starwars"])
        step.result = f"{', '.join(members)} on {lab.subnet}"
    return lab


def sideload(lab: Lab, *directories: Path) -> None:
    """Put the images of directories where MicroK8s picks images up. A node has no way to a registry."""
    images = [image for directory in directories for image in directory.glob("*.tar")]
    for node in lab.nodes:
        place = Path(f"/proc/{containers.alive(lab, node).pid}/root", SIDELOAD)
        place.mkdir(parents=True, exist_ok=True)
        for image in images:
            target = place / image.name
            if not target.exists() or target.stat().st_mtime != image.stat().st_mtime:
                # Appears whole: the snap imports a file as soon as it sees it.
                shutil.copy2(image, place / f".{image.name}")
                (place / f".{image.name}").rename(target)


def up(name: str, count: int | None, progress: Progress) -> Lab:
    """Everything: machines, cluster, network."""
    lab = machines(name, count, progress)
    rollout.play(lab, progress, "site.yml")
    with progress.step("kubeconfig") as step:
        write_kubeconfig(lab)
        step.result = str(lab.state / "kubeconfig")
    with progress.step("cluster DNS") as step:
        dns.ensure(checks.Cluster(lab), step.log)
        step.result = f"{dns.ADDRESS} answers for {dns.DOMAIN}"
    return lab


def write_kubeconfig(lab: Lab) -> None:
    """Fetch the cluster's credentials; they work from this machine."""
    shown = nodes.ssh(lab, lab.control_plane[0], ["/snap/bin/microk8s", "config"]).stdout
    if "server: https://" not in shown:
        raise LabError(
            f"`microk8s config` on {lab.control_plane[0]} did not print a kubeconfig: {shown[:300]!r}"
        )
    temporary = lab.state / "kubeconfig.new"
    temporary.touch(mode=0o600)
    temporary.write_text(checks.with_server(shown, lab.address(lab.control_plane[0])))
    temporary.replace(lab.state / "kubeconfig")


def down(name: str) -> list[str]:
    """Remove every trace of the lab, whatever state it is in. Returns what there was."""
    from lab.config import state_directory

    gone = containers.remove_all(check_name(name))
    gone += underlay.remove(name)
    directory = state_directory(name)
    if directory.exists():
        shutil.rmtree(directory)
        gone.append(str(directory))
    return gone
