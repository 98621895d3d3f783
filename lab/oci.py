"""Container images made without a container engine: a root filesystem and a configuration become an archive.

``ctr images import`` and ``podman load`` read the result.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import LabError

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


def image(
    target: Path,
    reference: str,
    rootfs: Path,
    *,
    entrypoint: Sequence[str] = (),
    command: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    working_directory: str = "/",
    user: str = "",
) -> None:
    """Write the OCI archive ``target`` holding one image named ``reference`` (with its tag).

    ``rootfs`` is a directory or a tar file with the files. The same input gives the same bytes. Raises
    ``LabError`` when the root filesystem is not there or the reference has no tag.
    """
    if ":" not in reference.rsplit("/", 1)[-1]:
        raise LabError(f"image reference {reference!r} has no tag", "Write it as name:tag")
    with tempfile.TemporaryDirectory(prefix="podwire-oci-", dir=target.parent) as name:
        layer = Path(name, "layer.tar")
        if rootfs.is_dir():
            _tar(rootfs, layer)
        elif rootfs.is_file():
            layer = rootfs
        else:
            raise LabError(f"{rootfs} is neither a directory nor a tar file")
        digest, size = _digest(layer)
        config = {
            "architecture": _MACHINES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Env": [f"{key}={value}" for key, value in _environment(environment).items()],
                "WorkingDir": working_directory,
                **({"Entrypoint": list(entrypoint)} if entrypoint else {}),
                **({"Cmd": list(command)} if command else {}),
                **({"User": user} if user else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "podwire lab"}],
        }
        config_data = _json(config)
        manifest_data = _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor(_CONFIG, config_data),
                "layers": [{"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": size}],
            }
        )
        names = {
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference.rsplit(":", 1)[1],
        }
        index_data = _json(
            {
                "schemaVersion": 2,
                "mediaType": _INDEX,
                "manifests": [{**_descriptor(_MANIFEST, manifest_data), "annotations": names}],
            }
        )
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
            _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(archive, "index.json", index_data)
            for data in (config_data, manifest_data):
                _add(archive, f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
            facts = tarfile.TarInfo(f"blobs/sha256/{digest}")
            facts.size, facts.mode = size, 0o644
            with layer.open("rb") as file:
                archive.addfile(facts, file)


def _environment(given: Mapping[str, str] | None) -> dict[str, str]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, **(given or {})}


def _tar(directory: Path, target: Path) -> None:
    command = ["tar", "--create", "--sort=name", "--numeric-owner", "--mtime=@0", "--format=gnu"]
    result = subprocess.run(
        [*command, f"--file={target}", f"--directory={directory}", "."],
        check=False,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise LabError(f"packing {directory} failed: {result.stderr.strip()}")


def _digest(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest(), path.stat().st_size


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
        "size": len(data),
    }


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    facts = tarfile.TarInfo(name)
    facts.size, facts.mode = len(data), 0o644
    archive.addfile(facts, io.BytesIO(data))


def empty_rootfs(directory: Path, files: Mapping[str, Path]) -> Path:
    """Fill ``directory`` with the given files (path inside the image -> file here) and return it."""
    for inside, outside in files.items():
        place = directory / inside.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(outside, place)
    return directory
