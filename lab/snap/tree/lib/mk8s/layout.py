"""Where things are on a node: the directories snapd gives the snap, and the files in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The snap's directories: code, per-revision data, data common to all revisions."""

    snap: Path
    data: Path
    common: Path
    revision: str = "x1"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Layout:
        """Read snapd's variables. Raises SystemExit outside a snap."""
        try:
            return cls(
                snap=Path(environ["SNAP"]),
                data=Path(environ["SNAP_DATA"]),
                common=Path(environ["SNAP_COMMON"]),
                revision=environ.get("SNAP_REVISION", "x1"),
            )
        except KeyError as missing:
            raise SystemExit(f"{missing} is not set: run this through /snap/bin/microk8s") from None

    @property
    def current(self) -> Path:
        """The data directory under its lasting name, which survives a refresh."""
        return self.data.parent / "current"

    def args(self, component: str) -> Path:
        return self.data / "args" / component

    @property
    def cni_conf_dir(self) -> Path:
        return self.data / "args" / "cni-network"

    @property
    def cni_manifest(self) -> Path:
        return self.cni_conf_dir / "cni.yaml"

    @property
    def cni_bin_dir(self) -> Path:
        return self.data / "opt" / "cni" / "bin"

    def cert(self, name: str) -> Path:
        return self.data / "certs" / name

    def credential(self, name: str) -> Path:
        return self.data / "credentials" / name

    @property
    def backend(self) -> Path:
        return self.data / "var" / "kubernetes" / "backend"

    @property
    def provider(self) -> Path:
        return self.args("traefik") / "provider.yaml"

    def lock(self, name: str) -> Path:
        return self.data / "var" / "lock" / name

    def locked(self, name: str) -> bool:
        return self.lock(name).exists()

    def set_lock(self, name: str, present: bool = True) -> None:
        """Create or remove a flag file."""
        path = self.lock(name)
        if present:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.unlink(missing_ok=True)

    @property
    def is_worker(self) -> bool:
        return self.locked("clustered.lock")

    @property
    def environment(self) -> dict[str, str]:
        """What ${SNAP...} in args files stand for."""
        return {"SNAP": str(self.snap), "SNAP_DATA": str(self.data), "SNAP_COMMON": str(self.common)}
