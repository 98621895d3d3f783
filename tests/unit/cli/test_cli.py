"""The command line: quick, clear when the agent is away, JSON everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from podwire.cli import monitor
from podwire.cli.main import main
from podwire.cli.output import ago
from podwire.cli.status import facts
from tests.unix_api import serving

STATUS: dict[str, Any] = {
    "node": "n1",
    "node_ip": "192.0.2.1",
    "version": "0.1.0",
    "pid": 7,
    "uptime_seconds": 90.0,
    "ready": True,
    "reasons": [],
    "problems": [],
    "endpoints": 2,
    "counters": {},
    "netfilter_forward_packets": 3,
    "netfilter_problem": "",
    "ipam": {"pod_cidr": "10.1.1.0/24", "size": 253, "used": 1},
    "kubernetes": {
        "source": "kubernetes",
        "connected": True,
        "detail": "https://127.0.0.1:16443",
        "nodes": 3,
    },
    "datapath": {
        "installed": True,
        "mode": "legacy",
        "requested": "ebpf",
        "reason": "kernel 5.10 lacks it",
        "attach": "tcx",
        "devices": [{"name": "eth0"}],
        "programs": [1, 2, 3, 4],
        "endpoints": [3, 4],
        "problems": [],
    },
}
ENDPOINT = {
    "container_id": "0123456789abcdef",
    "address": "10.1.1.2",
    "host_ifname": "lxc1",
    "slot": 1,
    "created": 1.0,
    "pod_namespace": "default",
    "pod_name": "web[0]",
    "health": False,
}
DROP = {
    "number": 5,
    "time": 0.25,
    "reason": 132,
    "reason_name": "invalid_source_ip",
    "direction": "egress",
    "program": "from_pod",
    "line": 10,
    "ifindex": 4,
    "bytes": 60,
    "protocol": "TCP",
    "ether_type": "0x0800",
    "source": "10.1.1.2",
    "source_port": 1,
    "destination": "10.1.1.3",
    "destination_port": 2,
    "suppressed": 4,
    "cpu": 0,
}
TRANSLATION = {
    "number": 6,
    "time": 0.25,
    "service": "default/web:http",
    "service_id": 7,
    "direction": "egress",
    "program": "from_pod",
    "ifindex": 4,
    "protocol": "TCP",
    "source": "10.1.1.2",
    "source_port": 4000,
    "destination": "10.152.183.9",
    "destination_port": 80,
    "new_source": "10.1.1.2",
    "new_source_port": 4000,
    "new_destination": "10.1.1.3",
    "new_destination_port": 8080,
    "suppressed": 0,
    "cpu": 0,
}
ANSWERS: dict[str, tuple[int, Any]] = {
    "/v1/status": (200, STATUS),
    "/v1/endpoints": (
        200,
        {"endpoints": [ENDPOINT, {**ENDPOINT, "address": "10.1.1.3", "container_id": "ff"}]},
    ),
    "/v1/endpoints/10.1.1.2": (200, ENDPOINT),
    "/v1/health?probe=1": (
        503,
        {"ok": False, "checks": [{"name": "pod", "ok": False, "detail": "no answer"}]},
    ),
    "/v1/health?probe=0": (200, {"ok": True, "checks": []}),
    "/v1/metrics": (503, {"error": "the datapath is not loaded yet"}),
    "/v1/translations?limit=20": (200, {"last": 6, "lost": 0, "events": [TRANSLATION]}),
    "/v1/drops?limit=20": (200, {"last": 5, "lost": 0, "events": [DROP]}),
}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    with serving(tmp_path / "agent.sock", ANSWERS) as socket:
        yield socket


@pytest.mark.parametrize("command", [["status"], ["endpoint", "list"], ["health"], ["monitor"], ["metrics"]])
def test_agent_away_names_socket_and_service(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "none.sock")
    assert main(["--socket", path, *command]) == 1
    error = capsys.readouterr().err
    assert path in error
    assert "systemctl status podwire-agent" in error


@pytest.mark.parametrize("command", [["status"], ["endpoint", "list"], ["health", "--no-probe"], ["monitor"]])
def test_every_answer_can_be_json(command: list[str], agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, *command, "-o", "json"]) == 0
    json.loads(capsys.readouterr().out)


def test_status_is_readable(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "status"]) == 0
    text = capsys.readouterr().out
    assert "legacy (wanted ebpf: kernel 5.10 lacks it)" in text
    assert "1 of 253 in 10.1.1.0/24" in text


def test_status_shows_problems() -> None:
    broken = {**STATUS, "ready": False, "reasons": ["no podCIDR"], "problems": ["overlap"]}
    lines = {name: (value, good) for name, value, good in facts(broken)}
    assert lines["Ready"] == ("no: no podCIDR", False)
    assert lines["Problem"] == ("overlap", False)


def test_nothing_is_cut_off_in_a_pipe(agent: str) -> None:
    command = [sys.executable, "-m", "podwire.cli.main", "--socket", agent, "endpoint", "list"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd="src", env={"COLUMNS": "20"}
    )
    assert "default/web[0]" in done.stdout
    assert "…" not in done.stdout


def test_pod_names_are_not_markup(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "endpoint", "list"]) == 0
    assert "default/web[0]" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["10.1.1.2", "0123"])
def test_endpoint_is_found_by_any_of_its_names(
    name: str, agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", agent, "endpoint", "get", name, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["address"] == "10.1.1.2"


@pytest.mark.parametrize(
    ("name", "message"), [("nobody", "no endpoint matches"), ("web[0]", "2 endpoints match")]
)
def test_unclear_endpoint_names_are_refused(
    name: str, message: str, agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", agent, "endpoint", "get", name]) == 1
    assert message in capsys.readouterr().err


def test_failed_check_is_exit_status_1(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "health"]) == 1
    assert "no answer" in capsys.readouterr().out


def test_refusal_of_the_agent_is_shown(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "metrics"]) == 1
    assert "the datapath is not loaded yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "default/web:http TCP 10.1.1.2:4000 -> 10.152.183.9:80 => 10.1.1.3:8080 (from_pod, interface 4)",
        ),
        ({"service": ""}, "service 7 TCP 10.1.1.2:4000 -> "),
        ({"new_source": "169.254.42.1"}, "=> 10.1.1.3:8080 from 169.254.42.1:4000 ("),
        ({"ifindex": 0, "program": "connect"}, "(connect)"),
        ({"suppressed": 3}, ", 3 more not shown)"),
    ],
)
def test_a_translation_is_a_line(changes: dict[str, Any], expected: str) -> None:
    assert expected in monitor.line({**TRANSLATION, **changes}, monitor.TRANSLATE)


def test_translations_are_asked_for_by_type(agent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", agent, "monitor", "--type", "translate"]) == 0
    assert "default/web:http" in capsys.readouterr().out


SERVING = {
    "enabled": True, "synced": True, "services": 3, "frontends": 4, "backends": 9, "problems": 0,
    "socket": "attached", "source": {"connected": True, "detail": "https://127.0.0.1:16443"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("services", "text", "good"),
    [
        ({"enabled": False}, "left to kube-proxy", None),
        ({"enabled": True, "synced": False}, "not begun yet", False),
        (SERVING, "3 with 4 frontends and 9 backends", True),
        ({**SERVING, "synced": False}, "not known completely yet (https://127.0.0.1:16443)", False),
        ({**SERVING, "socket": "no cgroup2"}, "not in sockets: no cgroup2", False),
        ({**SERVING, "problems": 2}, "2 problems (podwire service list)", False),
    ],
)
def test_the_status_says_who_serves_services(services: dict[str, Any], text: str, good: bool | None) -> None:
    found = next(line for line in facts({**STATUS, "services": services}) if line[0] == "Services")
    assert text in found[1]
    assert found[2] is good


def test_drop_is_one_line() -> None:
    text = monitor.line(DROP)
    assert "invalid_source_ip (132) TCP 10.1.1.2:1 -> 10.1.1.3:2" in text
    assert "4 more not shown" in text


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("bpf", "cleanup", "datapath", "endpoint", "health", "host-routing", "monitor", "status"):
        assert command in text


@pytest.mark.parametrize(
    "command",
    [
        "bpf",
        "cleanup",
        "datapath",
        "endpoint",
        "health",
        "host-routing",
        "identity",
        "metrics",
        "monitor",
        "policy",
        "service",
        "status",
    ],
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: podwire" in capsys.readouterr().out


def test_status_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from podwire.cli.main import main\n"
        "main(['--socket', '/nonexistent', 'status'])\n"
        "print([m for m in ('aiohttp', 'kubernetes', 'pyroute2', 'cffi', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="src")
    assert done.stdout.strip() == "[]"


def test_durations() -> None:
    assert [ago(s) for s in (0, 59.9, 60, 3600, 90_000)] == ["0s", "59s", "1m", "1h", "1d"]
