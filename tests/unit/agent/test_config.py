"""A wrong configuration is refused with the key, the reason and what is accepted."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from podwire.agent.config import AgentConfig, ConfigError, PolicySettings, config_from_dict, load_config
from podwire.policy.model import Enforcement

REPOSITORY = Path(__file__).resolve().parents[3]


def test_empty_configuration_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("")
    assert load_config(path) == AgentConfig()


def test_values_are_taken() -> None:
    config = config_from_dict(
        {"node_name": "n", "cluster_cidrs": ["10.0.0.0/8"], "service_cidr": None, "mtu": 9000}
    )
    assert (config.node_name, config.cluster_cidrs, config.service_cidr, config.mtu) == (
        "n",
        ("10.0.0.0/8",),
        None,
        9000,
    )
    settings = config_from_dict({"policy": {"enforcement": "always"}}).policy
    assert (settings.enforcement, settings.audit) == (Enforcement.ALWAYS, False)
    assert config.cni_socket == Path("/run/podwire/cni.sock")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("node_nme", "x", "unknown key node_nme; did you mean node_name?"),
        ("frobnicate", 1, "unknown key frobnicate"),
        ("node_name", "", "node_name: must be a non-empty string"),
        ("node_source", "etcd", "node_source: must be one of kubernetes, file"),
        ("node_ip", "10.0.0.300", "node_ip: must be an IPv4 address"),
        ("node_ip", "::1", "node_ip: must be an IPv4 address"),
        ("cluster_cidrs", "10.0.0.0/8", "cluster_cidrs: must be a list"),
        ("cluster_cidrs", ["10.0.0.1/8"], "cluster_cidrs: must be an IPv4 range"),
        ("service_cidr", 5, "service_cidr: must be an IPv4 range"),
        ("mtu", 100, "mtu: must be a whole number from 576 to 65535"),
        ("mtu", True, "mtu: must be a whole number"),
        ("health", "yes", "health: must be true or false"),
        ("health_interval", 0, "health_interval: must be a number from 0.1"),
        ("health_netns", "../x", "health_netns: must be letters"),
        ("workers", 0, "workers: must be a whole number from 1"),
        ("policy", "always", "policy: must be a mapping with the keys enforcement and audit"),
        ("policy", {"enforcement": "on"}, "policy: must be one of default, always, never"),
        ("policy", {"audit": 1}, "policy: must be true or false"),
        ("policy", {"enforcment": "never"}, "policy: unknown key enforcment; did you mean enforcement?"),
        ("state_dir", "relative", "state_dir: must be an absolute path"),
        ("log_level", "loud", "log_level: must be one of"),
    ],
)
def test_wrong_values_are_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_dict({key: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a", "not a mapping"), ("a: [", "is not YAML"), ("workers: x", "workers: must be")],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_missing_file_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*docs/agent\.md"):
        load_config(tmp_path / "none.yaml")


def test_every_key_is_documented() -> None:
    documented = (REPOSITORY / "docs" / "agent.md").read_text()
    assert [item.name for item in fields(AgentConfig) if f"`{item.name}`" not in documented] == []


def test_every_key_can_be_set() -> None:
    defaults = AgentConfig()
    for item in fields(AgentConfig):
        value = getattr(defaults, item.name)
        plain = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        if isinstance(value, PolicySettings):
            plain = {"enforcement": value.enforcement.value, "audit": value.audit}
        assert getattr(config_from_dict({item.name: plain}), item.name) == value
