"""The control-plane node's caretaker: every 5 seconds it checks certificates and runs the reconcile hooks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import api, argsfile, certs, containers, files, host, network
from .layout import Layout

PERIOD = 5.0
# While a new node still has no network, waiting a whole period each time would only make its start slow.
EAGER_PERIOD = 0.5
EAGER_FOR = 120.0
HOOK_LIMIT = 120.0
DEFAULT_NETWORK_STEP = "90-calico-apply"
MAXIMUM_REISSUES = 5


def run(layout: Layout) -> int:
    """The service's main loop; returns at once on a worker."""
    started = time.monotonic()
    reissues = 0
    while True:
        if layout.is_worker:
            print("this node is a worker: nothing to do")
            return 0
        if certificates_outdated(layout) and reissues < MAXIMUM_REISSUES:
            reissue(layout)
            reissues += 1
        else:
            reissues = 0
        reload_pods(layout)
        reconcile(layout)
        eager = network.wanted(layout) and time.monotonic() - started < EAGER_FOR
        time.sleep(EAGER_PERIOD if eager else PERIOD)


def certificates_outdated(layout: Layout) -> bool:
    """Has the node addresses that its server certificate lacks, and may we do something about it?"""
    if layout.locked("no-cert-reissue") or host.default_address() is None:
        return False
    arguments = files.read(layout.args("kube-apiserver"))
    if any(argsfile.get(arguments, flag) is not None for flag in ("--advertise-address", "--bind-address")):
        return False
    return certs.names_changed(layout, host.addresses())


def reissue(layout: Layout) -> None:
    """New server certificates, and a restart of everything that uses them."""
    print("the node's addresses changed: issuing new server certificates", flush=True)
    certs.reissue_server(layout, host.addresses())
    host.systemctl("restart", "cluster-agent")
    host.systemctl("stop", "kubelite")
    containers.delete_all(layout)
    host.systemctl("restart", "containerd")
    host.systemctl("start", "kubelite")


def reload_pods(layout: Layout) -> None:
    """After a refresh: delete this node's pods that hold the old revision's data directory by a hostPath."""
    if not layout.locked("snapdata-mounts-need-reload") or layout.locked("no-cni-reload"):
        return
    try:
        pods = api.request(layout, f"/api/v1/pods?fieldSelector=spec.nodeName%3D{host.hostname()}")["items"]
        for pod in (pod for pod in pods if holds_directory(pod, str(layout.current))):
            meta = pod["metadata"]
            print(f"deleting pod {meta['namespace']}/{meta['name']}: it uses {layout.current}", flush=True)
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
            api.request(layout, path, method="DELETE")
    except api.ApiError as error:
        print(error, file=sys.stderr, flush=True)
        return
    layout.set_lock("snapdata-mounts-need-reload", False)


def holds_directory(pod: dict[str, Any], directory: str) -> bool:
    """Is the pod somebody's, and has it a hostPath in directory?"""
    paths = [volume.get("hostPath", {}).get("path", "") for volume in pod["spec"].get("volumes", ())]
    owned = bool(pod["metadata"].get("ownerReferences"))
    return owned and any(path == directory or path.startswith(f"{directory}/") for path in paths)


def steps(hooks: list[Path]) -> list[Path | None]:
    """Hooks in name order; None stands for the built-in step that applies the default network."""
    named: list[tuple[str, Path | None]] = [(path.name, path) for path in hooks]
    return [path for _, path in sorted([*named, (DEFAULT_NETWORK_STEP, None)], key=lambda step: step[0])]


def reconcile(layout: Layout) -> None:
    """One round of the hooks. A hook that fails or hangs does not keep the others from running."""
    directory = layout.common / "hooks" / "reconcile.d"
    hooks = [path for path in directory.iterdir() if os.access(path, os.X_OK)] if directory.is_dir() else []
    for hook in steps(hooks):
        if hook is None:
            apply_default_network(layout)
            continue
        try:
            done = subprocess.run([str(hook)], check=False, timeout=HOOK_LIMIT)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"hook {hook.name}: {error}", file=sys.stderr, flush=True)
        else:
            if done.returncode != 0:
                print(f"hook {hook.name} ended with {done.returncode}", file=sys.stderr, flush=True)


def apply_default_network(layout: Layout) -> None:
    """Apply the default network once the API is up, and remember that."""
    if not network.wanted(layout) or not api.is_up(layout):
        return
    try:
        network.apply(layout)
    except network.NetworkError as error:
        print(error, file=sys.stderr, flush=True)
        return
    layout.set_lock("cni-loaded")
    print("applied the default network", flush=True)
