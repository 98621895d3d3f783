"""A benchmark that is stopped by a signal leaves nothing behind. Needs root, gcc and clang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.stopping import mounts, namespaces

REPOSITORY = Path(__file__).resolve().parents[3]
POD_PATH = ["-m", "benchmarks.pod_path", "--rounds", "1", "--seconds", "1"]
CNI_ADD = ["benchmarks/cni_add.py", "--rounds", "1"]


@pytest.fixture
def work():
    """Where benchmarks keep their files; pytest's own directories are too long for a unix socket's path."""
    with tempfile.TemporaryDirectory(prefix="pw-stop-") as name:
        yield Path(name)


@pytest.fixture
def start(tmp_path, work):
    """``start(arguments)``: a benchmark with its temporary files below ``work``."""
    assert os.geteuid() == 0, "benchmarks make network namespaces: run these tests as root"
    for name in ("netperf", "netserver"):
        # None of these tests gets as far as measuring; real ones may have to be downloaded.
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": ".:src:collections",
        "TMPDIR": str(work),
    }
    started: list[subprocess.Popen[str]] = []

    def run(arguments: list[str], program: str = sys.executable) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [program, *arguments],
                cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for_namespace(process: subprocess.Popen[str], name: str) -> None:
    deadline = time.monotonic() + 60
    while not Path("/run/netns", name).exists():
        assert process.poll() is None, f"ended early:\n{process.communicate()[0]}"
        assert time.monotonic() < deadline, f"namespace {name} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("arguments", "prefix", "appears", "number"),
    [
        pytest.param(POD_PATH, "pwb", "-node", signal.SIGTERM, id="pod path while it begins"),
        pytest.param(POD_PATH, "pwb", "pn1server", signal.SIGINT, id="pod path with all pairs up"),
        pytest.param(CNI_ADD, "pb", "n1s0", signal.SIGTERM, id="CNI ADD while it measures"),
    ],
)
def test_a_stopped_benchmark_leaves_nothing(start, work, arguments, prefix, appears, number):
    process = start(arguments)
    prefix = f"{prefix}{process.pid}"
    wait_for_namespace(process, prefix + appears)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert f"stopped by {number.name}" in output
    assert namespaces(prefix) == []
    assert mounts(work) == []
    assert list(work.iterdir()) == []


def test_a_second_signal_does_not_cut_the_cleaning_up_short(start):
    process = start(POD_PATH)
    prefix = f"pwb{process.pid}"
    wait_for_namespace(process, f"{prefix}pn1client")
    while namespaces(prefix):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, output


def test_a_signal_for_make_reaches_the_benchmark(start, work):
    process = start(["benchmark-path"], "make")
    deadline = time.monotonic() + 60
    while not (made := list(work.glob("podwire-benchmark-*/node1/agent.log"))):
        assert process.poll() is None and time.monotonic() < deadline, "the benchmark did not begin"
        time.sleep(0.02)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert "stopped by SIGTERM" in output
    assert not made[0].exists()
    assert list(work.iterdir()) == [] and mounts(work) == []
