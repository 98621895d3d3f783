"""The CNI specification, 0.3.1 to 1.1.0, as the agent speaks it: requests in, results and errors out.
Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from podwire.agent.host_ports import port_mappings
from podwire.agent.model import PortMapping

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
GATEWAY = "169.254.1.1"
"""The pods' on-link gateway; the datapath answers for it."""
MAX_CONTAINER_ID = 128

_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_FIRST_VERSION = {"check": "0.4.0", "gc": "1.1.0", "status": "1.1.0"}
_VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")


class Code(IntEnum):
    """Error codes of the specification; 100 and up are the plugin's own."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    INTERNAL = 100
    NO_ADDRESS = 101
    DATAPATH = 102


class CniError(Exception):
    """A call that failed, as the runtime will see it. ``msg`` names the cause, ``details`` the way out."""

    def __init__(self, code: Code, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details

    def as_json(self, version: str) -> dict[str, Any]:
        value: dict[str, Any] = {"cniVersion": version, "code": int(self.code), "msg": self.msg}
        if self.details:
            value["details"] = self.details
        return value

    @property
    def http_status(self) -> int:
        return 503 if self.code in (Code.TRY_AGAIN_LATER, Code.NOT_AVAILABLE) else 400


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the runtime, checked."""

    command: str
    """Lower case: add, del, check, gc, status."""
    version: str
    container_id: str = ""
    ifname: str = ""
    netns: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    prev_result: Mapping[str, Any] | None = None
    valid_attachments: frozenset[tuple[str, str]] | None = None
    """GC only: (container id, interface) that must stay; None when the runtime did not say."""
    port_mappings: tuple[PortMapping, ...] = ()
    """Host ports, where the configuration has the capability ``portMappings``."""


def version_of(body: Any) -> str:
    """The version an answer should carry: the caller's when it is a known one, else the newest."""
    config = body.get("config") if isinstance(body, dict) else None
    version = config.get("cniVersion") if isinstance(config, dict) else None
    return version if version in VERSIONS else NEWEST


def parse_request(command: str, body: Any) -> Request:
    """Check what the plugin sent for ``command``.

    Raises CniError with the code the specification has for what is wrong."""
    if not isinstance(body, dict) or not isinstance(body.get("config"), dict):
        raise CniError(Code.DECODING_FAILURE, 'the request is not {"env": {...}, "config": {...}}')
    config: dict[str, Any] = body["config"]
    env = body.get("env")
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise CniError(Code.DECODING_FAILURE, "the request's env is not an object of strings")
    version = config.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {version} is not supported (supported: {', '.join(VERSIONS)})",
        )
    first = _FIRST_VERSION.get(command)
    if first and VERSIONS.index(version) < VERSIONS.index(first):
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f"{command.upper()} needs cniVersion {first}, not {version}"
        )
    if command in ("gc", "status"):
        return Request(command, version, valid_attachments=_attachments(config) if command == "gc" else None)
    return Request(
        command,
        version,
        container_id=_container_id(env),
        ifname=_ifname(env),
        netns=_netns(env, required=command != "del"),
        args=_args(env.get("CNI_ARGS", "")),
        prev_result=_prev_result(command, config),
        port_mappings=_port_mappings(config) if command == "add" else (),
    )


def add_result(
    request: Request, *, address: str, pod_mac: str, host_ifname: str, host_mac: str, mtu: int
) -> dict[str, Any]:
    """The result of an ADD in the version the runtime asked for."""
    modern = request.version.startswith("1.")
    host: dict[str, Any] = {"name": host_ifname, "mac": host_mac}
    pod: dict[str, Any] = {"name": request.ifname, "mac": pod_mac, "sandbox": request.netns}
    if request.version == "1.1.0":
        host["mtu"] = pod["mtu"] = mtu
    ip: dict[str, Any] = {"address": f"{address}/32", "gateway": GATEWAY, "interface": 1}
    if not modern:
        ip["version"] = "4"
    return {
        "cniVersion": request.version,
        "interfaces": [host, pod],
        "ips": [ip],
        "routes": [{"dst": f"{GATEWAY}/32"}, {"dst": "0.0.0.0/0", "gw": GATEWAY}],
        "dns": {},
    }


def check_prev_result(request: Request, *, address: str, host_ifname: str) -> None:
    """Compare the result the runtime kept with what the agent knows.

    Raises CniError naming the first difference."""
    previous = request.prev_result or {}
    names = {item.get("name") for item in _objects(previous, "interfaces") if item.get("sandbox")}
    if request.ifname not in names:
        raise CniError(Code.INVALID_CONFIG, f"prevResult has no pod interface {request.ifname}")
    hosts = {item.get("name") for item in _objects(previous, "interfaces") if not item.get("sandbox")}
    if host_ifname not in hosts:
        raise CniError(Code.INVALID_CONFIG, f"prevResult has no host interface {host_ifname}")
    addresses = {str(item.get("address", "")).partition("/")[0] for item in _objects(previous, "ips")}
    if address not in addresses:
        raise CniError(
            Code.INVALID_CONFIG,
            f"prevResult has not the address {address} this pod was given",
            "recreate the pod",
        )


def _objects(value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = value.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _container_id(env: Mapping[str, str]) -> str:
    value = env.get("CNI_CONTAINERID", "")
    if not value:
        raise CniError(Code.INVALID_ENVIRONMENT, "environment variable CNI_CONTAINERID is missing")
    if not _CONTAINER_ID.fullmatch(value) or len(value) > MAX_CONTAINER_ID:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            "CNI_CONTAINERID must be letters, digits, '_', '.' or '-', "
            f"at most {MAX_CONTAINER_ID} characters",
        )
    return value


def _ifname(env: Mapping[str, str]) -> str:
    value = env.get("CNI_IFNAME", "")
    if not value:
        raise CniError(Code.INVALID_ENVIRONMENT, "environment variable CNI_IFNAME is missing")
    bad = not value.isascii() or not value.isprintable() or set(value) & set("/: ") or value in (".", "..")
    if bad or len(value) > 15:
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_IFNAME {value!r} cannot be the name of an interface")
    return value


def _netns(env: Mapping[str, str], *, required: bool) -> str:
    value = env.get("CNI_NETNS", "")
    if not value and required:
        raise CniError(Code.INVALID_ENVIRONMENT, "environment variable CNI_NETNS is missing")
    if value and not value.startswith("/"):
        raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS {value!r} is not an absolute path")
    return value


def _args(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";") if part)
    return {name: value for name, separator, value in pairs if separator}


def _port_mappings(config: Mapping[str, Any]) -> tuple[PortMapping, ...]:
    try:
        return port_mappings(config)
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, str(error)) from error


def _prev_result(command: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    value = config.get("prevResult")
    if value is not None and not isinstance(value, dict):
        raise CniError(Code.DECODING_FAILURE, "prevResult is not an object")
    if command == "add" and value:
        raise CniError(
            Code.INVALID_CONFIG,
            "prevResult given to ADD: podwire-cni creates the interface and must be the list's first plugin",
        )
    if command == "check" and value is None:
        raise CniError(Code.INVALID_CONFIG, "CHECK needs prevResult")
    return value


def _attachments(config: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    for name in _VALID_ATTACHMENTS:
        value = config.get(name)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise CniError(Code.DECODING_FAILURE, f"{name} is not a list of objects")
        return frozenset((str(item.get("containerID", "")), str(item.get("ifname", ""))) for item in value)
    return None
