"""The module datapath: options to arguments, answers to results, failures to something readable."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils import datapath
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.node_cli import NodeCli, NotInstalledError
from ansible_collections.podwire.ebpf.plugins.modules.datapath import run
from click.testing import CliRunner

from podwire.cli.datapath import apply as real_apply

OPTIONS: dict[str, Any] = {
    "objects": "/opt/podwire/bpf/abc",
    "devices": ["eth0", "eth1"],
    "node_ip": "10.0.0.11",
    "mtu": 1450,
    "masquerade": False,
    "nat_port_min": 61000,
    "nat_port_max": 62000,
    "event_rate": 7,
    "attach": "clsact",
    "services": True,
    "node_port_min": 20000,
    "node_port_max": 20100,
    "maglev_size": 65537,
    "dsr": True,
    "map_entries": {"podwire_ct4": 4096},
}


def test_every_option_reaches_the_real_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments are parsed by the command itself, so that the two cannot drift apart."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(real_apply, "callback", lambda **values: seen.update(values))
    arguments = datapath.apply_arguments(OPTIONS, "legacy", check=True)
    assert arguments[:2] == ["datapath", "apply"]
    done = CliRunner().invoke(real_apply, [*arguments[2:], "-o", "json"])
    assert done.exit_code == 0, done.output
    assert seen["objects"] == Path("/opt/podwire/bpf/abc")
    assert seen["devices"] == ("eth0", "eth1")
    assert (seen["node_ip"], seen["mtu"], seen["nat_ports"]) == ("10.0.0.11", 1450, "61000-62000")
    assert (seen["masquerade"], seen["attach"], seen["event_rate"]) == (False, "clsact", 7)
    assert (seen["host_routing"], seen["check"], seen["output"]) == ("legacy", True, "json")
    assert seen["map_entries"] == ("podwire_ct4=4096",)
    assert (seen["services"], seen["node_ports"], seen["dsr"]) == (True, "20000-20100", True)
    assert seen["maglev_size"] == 65537


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(
            {"installed": False, "requested": ""}, "ebpf", id="a new node starts with what is asked for"
        ),
        pytest.param(
            {"installed": True, "requested": "legacy"}, "legacy", id="a switched node keeps its mode"
        ),
    ],
)
def test_wanted_mode(status: dict[str, Any], expected: str) -> None:
    assert datapath.wanted_mode("ebpf", status) == expected


@pytest.mark.parametrize(
    ("services", "start", "sockets", "expected"),
    [
        pytest.param(True, False, {}, False, id="not-before-the-agent-knows-them"),
        pytest.param(True, False, None, False, id="nothing-loaded"),
        pytest.param(True, False, {"enabled": False}, False, id="off-stays-off"),
        pytest.param(True, False, {"enabled": True}, True, id="on-stays-on"),
        pytest.param(True, True, {"enabled": False}, True, id="started"),
        pytest.param(False, True, {"enabled": True}, False, id="turned-off"),
    ],
)
def test_wanted_services(services: bool, start: bool, sockets: dict[str, Any] | None, expected: bool) -> None:
    options = {"services": services, "start_services": start}
    assert datapath.wanted_services(options, {"sockets": sockets}) is expected


def test_services_are_not_turned_off_where_the_status_is_unknown(tmp_path: Path) -> None:
    """A command that fails says nothing about services: nothing is applied."""
    applied = tmp_path / "applied"
    cli = command(
        tmp_path,
        f"open({str(applied)!r}, 'w').close() if 'apply' in sys.argv else "
        """print('{"error": "libbpf is missing"}'); sys.exit(1)""",
    )
    options = OPTIONS | {"state": "present", "host_routing": "ebpf", "start_services": False}
    module = SimpleNamespace(params=options | {"command": cli.command}, check_mode=False)
    with pytest.raises(PodwireError, match="libbpf is missing"):
        run(module)
    assert not applied.exists()


def command(tmp_path: Path, body: str) -> NodeCli:
    script = tmp_path / "podwire"
    script.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    script.chmod(0o755)
    return NodeCli(str(script), timeout=10)


def test_answer_is_the_commands_json(tmp_path: Path) -> None:
    cli = command(tmp_path, "import json; print(json.dumps({'said': sys.argv[1:]}))")
    assert cli.call("datapath", "status") == {"said": ["datapath", "status", "-o", "json"]}


def test_refusal_keeps_the_commands_message_and_hint(tmp_path: Path) -> None:
    cli = command(
        tmp_path, """print('{"error": "no device eth7", "hint": "Set podwire_devices."}'); sys.exit(1)"""
    )
    with pytest.raises(PodwireError) as caught:
        cli.call("datapath", "apply")
    assert caught.value.result()["msg"] == "no device eth7. Set podwire_devices."


def test_crash_shows_the_end_of_what_it_said(tmp_path: Path) -> None:
    cli = command(tmp_path, "sys.exit('ImportError: libbpf.so.1')")
    with pytest.raises(PodwireError, match=r"ended with 1 and said: ImportError: libbpf\.so\.1"):
        cli.call("datapath", "apply")


def test_success_without_json_is_a_failure_too(tmp_path: Path) -> None:
    with pytest.raises(PodwireError, match="ended with 0 and said: done"):
        command(tmp_path, "print('done')").call("datapath", "apply")


def test_missing_command_names_the_role(tmp_path: Path) -> None:
    with pytest.raises(NotInstalledError) as caught:
        NodeCli(str(tmp_path / "none")).call("datapath", "status")
    assert "role podwire.ebpf.agent" in caught.value.result()["msg"]


def test_foretold_says_nothing_to_remove_where_nothing_is() -> None:
    assert datapath.foretold("absent", OPTIONS)["changed"] is False
    assert datapath.foretold("present", OPTIONS)["changed"] is True
