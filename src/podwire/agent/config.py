"""The agent's configuration file: documented keys, checked before anything is touched."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from podwire.policy.model import Enforcement

DEFAULT_PATH = Path("/etc/podwire/agent.yaml")


class ConfigError(Exception):
    """The configuration is missing or wrong. The message names the file, the key and what is accepted."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """How network policies are enforced on this node."""

    enforcement: Enforcement = Enforcement.DEFAULT
    """``default``: what policies select and close; ``always``: every pod, in both directions; ``never``."""
    audit: bool = False
    """Let pass what policies refuse, and say so in verdict events."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Settings of one node's agent. Every key of agent.yaml is a field here."""

    node_name: str = field(default_factory=socket.gethostname)
    """Name of this node's Node object."""
    node_source: str = "kubernetes"
    """Where nodes and podCIDRs come from: ``kubernetes``, or ``file`` for hosts without a Kubernetes API."""
    kubeconfig: Path = Path("/etc/podwire/kubeconfig")
    node_file: Path = Path("/etc/podwire/nodes.yaml")
    """With ``node_source: file``: a YAML list of ``{name, podCIDR, addresses, healthAddress, zone}``."""
    kube_proxy_replacement: bool = False
    """Translate services in eBPF in place of kube-proxy. The datapath must be loaded for it as well."""
    service_file: Path = Path("/etc/podwire/services.yaml")
    """With ``node_source: file``: objects of the kinds Service and EndpointSlice."""
    service_algorithm: str = "random"
    """How backends are chosen for clients from outside the cluster: ``random`` or ``maglev`` (consistent)."""
    policy: PolicySettings = PolicySettings()
    """A mapping with the keys ``enforcement`` and ``audit``."""
    node_ip: str | None = None
    """This node's address towards the others; default: the first address of its Node that this host has."""
    cluster_cidrs: tuple[str, ...] = ("10.1.0.0/16",)
    """Ranges of pod addresses: never masqueraded."""
    service_cidr: str | None = "10.152.183.0/24"
    """Range of service addresses: translated by kube-proxy, or by podwire (kube_proxy_replacement). null =
    none."""
    external_service_cidrs: tuple[str, ...] = ()
    """Ranges of external and load-balancer addresses of services: the host's stack translates them too. Of no
    use with kube_proxy_replacement, which looks up every address."""
    non_masquerade_cidrs: tuple[str, ...] = ()
    """Further ranges that pods reach with their own address."""
    mtu: int | None = None
    """MTU of pod interfaces, in bytes; default: what the datapath was loaded with."""
    health: bool = True
    """Run the health endpoint and probe the other nodes."""
    health_netns: str = "podwire-health"
    """Name of the health endpoint's network namespace (a file in /run/netns)."""
    health_interval: float = 10.0
    """Seconds between two rounds of probes."""
    resync_interval: float = 60.0
    """Seconds between two full comparisons of the kernel with the desired state, and between two looks at the
    queue."""
    policy_wait: float = 10.0
    """Seconds that a new pod waits for its identity and policy, before it starts closed."""
    netfilter_counter: bool = True
    """Keep the nftables table ``podwire``, which counts pod packets that pass netfilter's forward hook."""
    workers: int = 4
    """Threads that do kernel work for CNI requests."""
    expedited_attach: bool = True
    """Ask the kernel for expedited RCU grace periods during an attach: a pod waits some 20 ms less."""
    drop_history: int = 1000
    """Drops, and as many verdicts and translations, kept in memory for ``podwire monitor``."""
    state_dir: Path = Path("/var/lib/podwire")
    run_dir: Path = Path("/run/podwire")
    bpffs: Path = Path("/sys/fs/bpf/podwire")
    """Directory of podwire's pins."""
    cgroup_root: Path | None = None
    """Control group (version 2) whose processes reach services by the socket; default: the whole node."""
    log_level: str = "info"

    @property
    def agent_socket(self) -> Path:
        return self.run_dir / "agent.sock"

    @property
    def cni_socket(self) -> Path:
        return self.run_dir / "cni.sock"

    @property
    def grace_marker(self) -> Path:
        return self.run_dir / "rcu-expedited"

    @property
    def queue_dir(self) -> Path:
        return self.state_dir / "cni-queue"


def load_config(path: Path) -> AgentConfig:
    """Read and check ``path``.

    Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; it is written by the agent role, see docs/agent.md"
        ) from error
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    try:
        return config_from_dict(value if value is not None else {})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_dict(value: Any) -> AgentConfig:
    """Check a parsed configuration.

    Raises ConfigError naming the first key that is wrong."""
    if not isinstance(value, dict):
        raise ConfigError("the configuration is not a mapping of keys to values")
    known = [item.name for item in fields(AgentConfig)]
    settings: dict[str, Any] = {}
    for key, item in value.items():
        if key not in known:
            raise ConfigError(_unknown(key, known))
        try:
            settings[key] = _CHECKS[key](item)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
    return AgentConfig(**settings)


def _unknown(key: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f" (known keys: {', '.join(known)})"
    return f"unknown key {key}{hint}"


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a non-empty string, not {value!r}")
    return value


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return check


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, not {value!r}")
    return path


def _address(value: Any) -> str:
    try:
        return str(ipaddress.IPv4Address(_text(value)))
    except ipaddress.AddressValueError as error:
        raise ValueError(f"must be an IPv4 address, not {value!r}") from error


def _cidr(value: Any) -> str:
    try:
        return str(ipaddress.IPv4Network(_text(value)))
    except ValueError as error:
        raise ValueError(
            f"must be an IPv4 range such as 10.1.0.0/16 (no host bits set), not {value!r}"
        ) from error


def _cidrs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of IPv4 ranges, not {value!r}")
    return tuple(_cidr(item) for item in value)


def _name(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", _text(value)):
        raise ValueError(f"must be letters, digits, '_', '.' or '-', not {value!r}")
    return str(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {value!r}")
    return value


def _number(low: float, high: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}, not {value!r}")
        return value

    return check


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {value!r}")
        return value

    return check


def _optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _policy(value: Any) -> PolicySettings:
    if not isinstance(value, dict):
        raise ValueError(f"must be a mapping with the keys enforcement and audit, not {value!r}")
    checks: dict[str, Callable[[Any], Any]] = {
        "enforcement": _one_of(*(mode.value for mode in Enforcement)),
        "audit": _boolean,
    }
    for key in value.keys() - checks.keys():
        raise ValueError(_unknown(key, list(checks)))
    found = {key: checks[key](item) for key, item in value.items()}
    return PolicySettings(Enforcement(found.get("enforcement", "default")), found.get("audit", False))


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "node_name": _text,
    "node_source": _one_of("kubernetes", "file"),
    "kubeconfig": _path,
    "node_file": _path,
    "kube_proxy_replacement": _boolean,
    "service_file": _path,
    "service_algorithm": _one_of("random", "maglev"),
    "policy": _policy,
    "node_ip": _optional(_address),
    "cluster_cidrs": _cidrs,
    "service_cidr": _optional(_cidr),
    "external_service_cidrs": _cidrs,
    "non_masquerade_cidrs": _cidrs,
    "mtu": _optional(_integer(576, 65535)),
    "health": _boolean,
    "health_netns": _name,
    "health_interval": _number(0.1, 3600),
    "resync_interval": _number(0.5, 86400),
    "policy_wait": _number(0, 60),
    "netfilter_counter": _boolean,
    "workers": _integer(1, 32),
    "expedited_attach": _boolean,
    "drop_history": _integer(1, 100_000),
    "state_dir": _path,
    "run_dir": _path,
    "bpffs": _path,
    "cgroup_root": _optional(_path),
    "log_level": _one_of("debug", "info", "warning", "error"),
}


def require_root() -> None:
    """Raises ConfigError when the process is not root."""
    if os.geteuid() != 0:
        raise ConfigError("podwire-agent must run as root: it changes links, routes and eBPF maps")
