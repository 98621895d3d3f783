from __future__ import annotations

import json

import pytest
from mk8s import api, cli, status
from mk8s.layout import Layout

RUNNING = status.Status(True, True, [("10.0.0.11:19001", "voter")])
STOPPED = status.Status(False, True)


def test_yaml_of_a_running_node() -> None:
    assert status.render(RUNNING, "yaml").splitlines() == [
        "microk8s:",
        "  running: True",
        "high-availability:",
        "  enabled: True",
        "  nodes:",
        "    - address: 10.0.0.11:19001",
        "      role: voter",
        "addons: []",
    ]


def test_yaml_of_a_node_that_is_not_ready_has_the_message_where_canonical_puts_it() -> None:
    lines = status.render(STOPPED, "yaml").splitlines()
    assert lines[1] == "  running: False"
    assert lines[-1].startswith("  message: ")
    assert "addons: []" not in lines


@pytest.mark.parametrize(
    ("ready", "unschedulable", "expected"),
    [
        pytest.param("True", False, "Ready", id="ready"),
        pytest.param("False", False, "NotReady", id="not ready"),
        pytest.param("Unknown", False, "NotReady", id="unknown"),
        pytest.param("True", True, "Ready,SchedulingDisabled", id="cordoned"),
    ],
)
def test_node_status_is_what_kubectl_prints(ready: str, unschedulable: bool, expected: str) -> None:
    node = {
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
        "spec": {"unschedulable": unschedulable},
    }
    assert api.node_status(node) == expected


def test_a_worker_answers_with_a_sentence_and_success(
    layout: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    layout.set_lock("clustered.lock")
    for command in (cli.status_command, cli.kubectl, cli.config, cli.start, cli.stop):
        assert command(layout, []) == 0
        assert "acting as a node in a cluster" in capsys.readouterr().out
    assert cli.add_node(layout, []) == 1


def test_a_stopped_node_says_so_with_success(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    layout.set_lock("stopped.lock")
    assert cli.status_command(layout, []) == 0
    assert "microk8s start" in capsys.readouterr().out


def test_the_invitation_in_json_names_every_address() -> None:
    text = cli.invitation("t" * 32, "c" * 12, ["10.0.0.11", "192.168.7.2"], "json")
    full = "t" * 32 + "/" + "c" * 12
    assert json.loads(text) == {
        "token": full,
        "urls": [f"10.0.0.11:25000/{full}", f"192.168.7.2:25000/{full}"],
    }


def test_the_short_invitation_is_commands_only() -> None:
    text = cli.invitation("t" * 32, "c" * 12, ["10.0.0.11"], "short")
    assert text == f"microk8s join 10.0.0.11:25000/{'t' * 32}/{'c' * 12}"
