# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""The files by which a node's pod network is claimed, taken over and given back.

Three states, each a superset of the one before:

``default``  MicroK8s' own network: ``cni.yaml`` in place, its configuration in containerd's CNI directory.
``claimed``  nothing brings the default network back (``cni.yaml`` aside, ``cni-loaded``), and a new address
on the host makes nobody
             reissue certificates (``no-cert-reissue``). The network that runs goes on running.
``podwire``  containerd hands pods to podwire.

What was made is written to a record first, so that giving back undoes that and no more, and an interrupted
run can go on.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import WORKER, Layout
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_trace_files import remove, results
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_traces import (
    DefaultNetwork,
    from_conflists,
)

CONFLIST = "05-podwire.conflist"
PLUGIN = "podwire-cni"
#: The network's name in the configuration.
NETWORK = "podwire"
MANIFEST = "cni.yaml"
#: Where the manifest waits to be given back. containerd reads .conf, .conflist and .json only.
ASIDE = "cni.yaml.podwire"
LOCKS = ("cni-loaded", "no-cert-reissue")
#: Configuration that MicroK8s' built-in networks write.
DEFAULT_CONF = ("10-calico.conflist", "10-flannel.conflist", "flannel.conflist")
DEFAULT_OTHER = ("calico-kubeconfig",)
FORWARDING = ("net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding")
SYSCTL_FILE = Path("etc/sysctl.d/90-podwire-forwarding.conf")
SYSCTL_TEXT = "# MicroK8s turns forwarding on only while its own pod network is in charge.\n" + "".join(
    f"{name.replace('/', '.')} = 1\n" for name in FORWARDING
)


@dataclass
class Record:
    """What podwire did to this node's network. ``since`` is when containerd was pointed to ``owner``, in
    seconds since the
    epoch: pods that started earlier still hang on the other network."""

    owner: str = "default"
    since: float | None = None
    created_locks: list[str] = field(default_factory=list)
    created_sysctl: bool = False
    networks: list[str] = field(default_factory=list)
    bridges: list[str] = field(default_factory=list)

    @property
    def network(self) -> DefaultNetwork:
        """The default network as it was when it was taken over."""
        return DefaultNetwork(tuple(self.networks), tuple(self.bridges))


class Takeover:
    """The files of one node. With ``dry`` nothing is written, and ``steps`` says what would be."""

    def __init__(self, layout: Layout, *, dry: bool) -> None:
        self.layout = layout
        self.dry = dry
        self.steps: list[str] = []
        self.record = self._read_record()

    # --- looking

    @property
    def record_path(self) -> Path:
        return self.layout.lock("podwire-network.json")

    def _read_record(self) -> Record:
        try:
            stored = json.loads(self.record_path.read_text())
            return Record(**{key: stored[key] for key in stored if key in Record.__dataclass_fields__})
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, TypeError) as error:
            raise PodwireError(
                f"{self.record_path} cannot be read: {error}",
                "It records what podwire did to this node's network. Delete it, and run again.",
            ) from error

    def conf_files(self) -> list[str]:
        """CNI configurations in the order in which containerd would choose."""
        try:
            names = [path.name for path in self.layout.cni_conf.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.endswith((".conf", ".conflist", ".json")))

    def default_conf(self) -> list[str]:
        """The default network's configurations that are there."""
        return [name for name in self.conf_files() if name in DEFAULT_CONF]

    def check_foreign(self) -> None:
        """Refuse a node whose pods hang on a third network."""
        foreign = [name for name in self.conf_files() if name != CONFLIST and name not in DEFAULT_CONF]
        if foreign:
            raise PodwireError(
                f"Another pod network is configured on this node: {', '.join(foreign)} in "
                f"{self.layout.cni_conf}",
                "Uninstall that network (for an addon: microk8s disable ...), then run again.",
            )

    # --- acting

    def claim(self) -> None:
        """Keep the default network from coming back and certificates from being reissued."""
        manifest = self.layout.cni_conf / MANIFEST
        missing = [name for name in LOCKS if not self.layout.lock(name).exists()]
        new = [name for name in missing if name not in self.record.created_locks]
        sysctl = self.layout.root / SYSCTL_FILE
        if new or (self.record.created_sysctl is False and not sysctl.exists()):
            self.record.created_locks += new
            self.record.created_sysctl = self.record.created_sysctl or not sysctl.exists()
            self._save()
        for name in missing:
            self._step(f"create lock {name}", lambda name=name: self._touch(self.layout.lock(name)))
        if manifest.exists():
            self._step(f"put {MANIFEST} aside", lambda: manifest.replace(self.layout.cni_conf / ASIDE))
        self._forward(sysctl)

    def install(self, conflist: str, plugin: Path) -> None:
        """Point containerd to podwire."""
        self.check_foreign()
        if not plugin.is_file():
            if not self.dry:
                raise PodwireError(f"{plugin} does not exist", "Install podwire's agent on this node first.")
            self.steps.append(f"install {PLUGIN}")
        elif not _same_file(plugin, self.layout.cni_bin / PLUGIN):
            self._step(f"install {PLUGIN}", lambda: self._copy(plugin, self.layout.cni_bin / PLUGIN))
        conf = self.layout.cni_conf / CONFLIST
        known = from_conflists(read_text(self.layout.cni_conf / name) for name in self.default_conf())
        fresh = [name for name in known.names if name not in self.record.networks]
        if fresh or self.record.owner != "podwire":
            self.record.networks += fresh
            self.record.bridges += [name for name in known.bridges if name not in self.record.bridges]
            self._save()
        if read_text(conf) != conflist:
            # containerd ignores files that are created or moved in; a rename inside the directory it does
            # notice.
            self._step(f"write {CONFLIST}", lambda: self._write(conf, conflist, 0o600))
        if self.record.owner != "podwire" or self.record.since is None:
            self._own("podwire")
        for name in [*self.default_conf(), *DEFAULT_OTHER]:
            path = self.layout.cni_conf / name
            if path.exists():
                self._step(f"remove {name}", path.unlink)

    def restore_manifest(self) -> None:
        """Put the default network's manifest back in place."""
        aside = self.layout.cni_conf / ASIDE
        if aside.exists():
            self._step(f"put {MANIFEST} back", lambda: aside.replace(self.layout.cni_conf / MANIFEST))

    def wait_default(self, deadline: float) -> None:
        """Wait until the default network has written its configuration on this node again."""
        while not self.default_conf():
            if time.monotonic() >= deadline:
                raise PodwireError(
                    f"MicroK8s' own network has written no configuration to {self.layout.cni_conf} in the "
                    "time allowed",
                    "See why its pods do not run on this node: microk8s kubectl -n kube-system get pods -o "
                    "wide. Pods keep "
                    "their podwire network until then; run again afterwards.",
                )
            time.sleep(0.5)

    def release(self, *, alone: bool) -> None:
        """Point containerd to the default network again and undo what claiming did. ``alone``: no other node
        is in the
        cluster, so nothing but podwire needs its certificates to stay."""
        conf = self.layout.cni_conf / CONFLIST
        if conf.exists():
            self._step(f"remove {CONFLIST}", conf.unlink)
        if self.record.owner == "podwire":
            self._own("default")
        loaded = self.layout.lock("cni-loaded")
        if "cni-loaded" in self.record.created_locks and self.layout.role == WORKER and loaded.exists():
            # Nothing applies manifests on a worker; a node that leaves later must find its own to be applied.
            self._step("remove lock cni-loaded", loaded.unlink)
        plugin = self.layout.cni_bin / PLUGIN
        if plugin.exists():
            self._step(f"remove {PLUGIN}", plugin.unlink)
        lock = self.layout.lock("no-cert-reissue")
        if "no-cert-reissue" in self.record.created_locks and alone and lock.exists():
            self._step("remove lock no-cert-reissue", lock.unlink)
        sysctl = self.layout.root / SYSCTL_FILE
        if self.record.created_sysctl and sysctl.exists():
            self._step(f"remove /{SYSCTL_FILE}", sysctl.unlink)

    def forget(self) -> None:
        """Drop the record and what libcni remembers of podwire's pods: nothing of podwire is left."""
        remembered = results(self.layout.root / "var", [NETWORK])
        if remembered:
            self._step("remove the results of CNI calls", lambda: remove(remembered))
        if self.record_path.exists():
            self._step("forget", self.record_path.unlink)

    # --- writing

    def _step(self, what: str, action: Any) -> None:
        self.steps.append(what)
        if not self.dry:
            action()

    def _own(self, owner: str) -> None:
        self.steps.append(f"{owner} has the pods from now on")
        self.record.owner, self.record.since = owner, time.time()
        self._save()

    def _save(self) -> None:
        if not self.dry:
            self._write(
                self.record_path, json.dumps(asdict(self.record), indent=1, sort_keys=True) + "\n", 0o640
            )

    def _touch(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o644)

    def _write(self, path: Path, text: str, mode: int) -> None:
        with replacing(path, mode) as stream:
            stream.write(text.encode())

    def _copy(self, source: Path, target: Path) -> None:
        with replacing(target, 0o755) as stream, source.open("rb") as origin:
            shutil.copyfileobj(origin, stream)

    def _forward(self, sysctl: Path) -> None:
        if read_text(sysctl) != SYSCTL_TEXT:
            self._step(f"write /{SYSCTL_FILE}", lambda: self._write(sysctl, SYSCTL_TEXT, 0o644))
        for name in FORWARDING:
            path = self.layout.root / "proc/sys" / name
            if read_text(path).strip() == "0":
                self._step(f"turn on {name.replace('/', '.')}", lambda path=path: path.write_text("1"))

    def alone(self, nodes: int) -> bool:
        """Whether this node is a cluster of its own. ``nodes`` is the number of Node objects."""
        return self.layout.role != WORKER and not self.layout.clustered and nodes <= 1


class _Replacement:
    """A temporary file in the target's own directory that takes the target's place when all of it is
    written.
    """

    def __init__(self, path: Path, mode: int) -> None:
        self.path, self.mode = path, mode

    def __enter__(self) -> Any:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A name that containerd does not take for a configuration.
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".new", dir=self.path.parent)
        self.temporary = Path(name)
        self.stream = os.fdopen(handle, "wb")
        return self.stream

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self.stream.flush()
                os.fsync(self.stream.fileno())
                self.temporary.chmod(self.mode)
            self.stream.close()
            if kind is None:
                self.temporary.replace(self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


def replacing(path: Path, mode: int) -> _Replacement:
    """A binary stream whose content takes the file's place, whole, when the ``with`` block ends well."""
    return _Replacement(path, mode)


def read_text(path: Path) -> str:
    """The file's text, empty when it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _same_file(one: Path, other: Path) -> bool:
    if not other.is_file() or not stat.S_IMODE(other.stat().st_mode) & 0o111:
        return False
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
