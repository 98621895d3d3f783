"""What the agent keeps on disk: one JSON file per endpoint, the last known nodes, small settings.

A file is replaced by rename, so a reader sees the old or the new content, never a part. There is no fsync for
endpoints: a crash of the agent does not lose the page cache, and a crash of the machine ends the pods as
well."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from podwire.agent.model import Endpoint, NodeInfo, PortMapping
from podwire.net.values import NetnsId
from podwire.policy.identity import UNMANAGED

log = logging.getLogger(__name__)

FORMAT = 1
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


class StateError(Exception):
    """The state directory cannot be written or read. The message names the file and the reason."""


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with ``value`` as JSON, readable by root only.

    Raises StateError; nothing half-written stays behind."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(temporary, _CREATE, 0o600), "w", encoding="utf-8") as file:
            json.dump(value, file)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(
            f"cannot write {path}: {error.strerror or error}; free space on the file system of {path.parent} "
            "or make it writable"
        ) from error


def read_json(path: Path) -> Any:
    """The JSON content of ``path``, or None when there is no such file.

    Raises StateError when it cannot be read or is not JSON."""
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateError(f"cannot read {path}: {error}") from error


class StateStore:
    """Files under the agent's state directory (default /var/lib/podwire)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._endpoints = directory / "endpoints"
        self._nodes = directory / "nodes.json"
        self._local = directory / "identities.json"

    def save_endpoint(self, endpoint: Endpoint) -> None:
        write_json(self._endpoint_path(endpoint.key), {"format": FORMAT, **endpoint_json(endpoint)})

    def delete_endpoint(self, key: str) -> None:
        """Forget an endpoint; one that is not there is fine."""
        try:
            self._endpoint_path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"cannot delete {self._endpoint_path(key)}: {error.strerror}") from error

    def load_endpoints(self) -> list[Endpoint]:
        """Every persisted endpoint. A file that makes no sense is set aside as NAME.bad and reported in the
        log."""
        found: list[Endpoint] = []
        if not self._endpoints.is_dir():
            return found
        for path in sorted(self._endpoints.iterdir()):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                path.unlink(missing_ok=True)  # left by a crash while writing
            elif path.suffix == ".json":
                try:
                    found.append(endpoint_from_json(read_json(path)))
                except (StateError, ValueError) as error:
                    log.error("endpoint record %s is unusable and set aside as .bad: %s", path, error)
                    path.rename(path.with_suffix(".bad"))
        return found

    def save_nodes(self, nodes: Iterable[NodeInfo]) -> None:
        write_json(self._nodes, {"format": FORMAT, "nodes": [asdict(node) for node in nodes]})

    def load_nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes as last seen; empty when nothing usable is stored."""
        try:
            value = read_json(self._nodes)
            return tuple(node_from_json(item) for item in value["nodes"]) if value else ()
        except (StateError, KeyError, TypeError, ValueError) as error:
            log.error("stored nodes are unusable, waiting for the API: %s", error)
            return ()

    def save_local_identities(self, cidrs: Mapping[IPv4Network, int], api_servers: Iterable[str]) -> None:
        """Keep what this node numbered by itself, and where the API servers are."""
        value = {
            "format": FORMAT,
            "cidrs": {str(prefix): number for prefix, number in cidrs.items()},
            "api_servers": sorted(api_servers),
        }
        write_json(self._local, value)

    def load_local_identities(self) -> tuple[dict[IPv4Network, int], frozenset[str]]:
        """What was kept last; nothing when there is nothing usable."""
        try:
            value = read_json(self._local) or {}
            cidrs = {IPv4Network(prefix): int(number) for prefix, number in value.get("cidrs", {}).items()}
            return cidrs, frozenset(str(IPv4Address(address)) for address in value.get("api_servers", ()))
        except (StateError, AttributeError, TypeError, ValueError) as error:
            log.error("stored numbers of prefixes are unusable: %s", error)
            return {}, frozenset()

    def _endpoint_path(self, key: str) -> Path:
        return self._endpoints / f"{key}.json"


def endpoint_json(endpoint: Endpoint) -> dict[str, Any]:
    """Undone by ``endpoint_from_json``. Host ports are only named where there are some, so that an agent
    of an earlier version reads the other records."""
    value = asdict(endpoint)
    if not endpoint.port_mappings:
        del value["port_mappings"]
    return value


_FIELDS = frozenset(field.name for field in fields(Endpoint))


def endpoint_from_json(value: Any) -> Endpoint:
    """A record of before identities counts as unmanaged; what a later version added is left out.

    Raises ValueError when the record lacks a field or has one of the wrong type."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"not an endpoint record of format {FORMAT}")
    known = {"identity": UNMANAGED, **{name: item for name, item in value.items() if name in _FIELDS}}
    try:
        known["netns_id"] = NetnsId(**known["netns_id"])
        known["port_mappings"] = tuple(PortMapping(*item) for item in known.get("port_mappings", ()))
        endpoint = Endpoint(**known)
    except (KeyError, TypeError) as error:
        raise ValueError(f"incomplete endpoint record: {error}") from error
    if not isinstance(endpoint.address, str) or not isinstance(endpoint.slot, int):
        raise ValueError("endpoint record with a wrong type")
    return endpoint


def node_from_json(value: dict[str, Any]) -> NodeInfo:
    return NodeInfo(**{**value, "addresses": tuple(value.get("addresses", ()))})
