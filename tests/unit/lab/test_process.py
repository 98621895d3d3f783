"""Running other programs: output, failures, and ending them."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab import process
from lab.config import ROOT
from lab.errors import LabError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(process, "_stopping", threading.Event())


def test_output_is_returned():
    assert process.run(["echo", "hello"]).stdout == "hello\n"


def test_failure_names_command_and_last_words():
    with pytest.raises(LabError) as caught:
        process.run(["sh", "-c", "echo cause >&2; exit 3"], what="the step", hint="do this")
    assert "the step failed (exit 3)" in str(caught.value)
    assert "cause" in str(caught.value)
    assert caught.value.hint == "do this"


def test_failure_may_be_the_callers_business():
    assert process.run(["false"], check=False).returncode == 1


def test_missing_program_says_how_to_get_it():
    with pytest.raises(LabError, match="no-such-program is not installed") as caught:
        process.run(["no-such-program"])
    assert "make bootstrap" in caught.value.hint


def test_timeout_is_named():
    with pytest.raises(LabError, match="no end after"):
        process.run(["sleep", "20"], timeout=0.1)


def test_commands_never_wait_for_a_person():
    assert process.run(["cat"]).stdout == ""
    lines = []
    process.stream(["sh", "-c", "read -r x || echo no input"], lines.append)
    assert lines == ["no input"]


def test_stream_passes_lines_of_both_outputs_on():
    lines = []
    process.stream(["sh", "-c", "echo one; echo two >&2"], lines.append)
    assert lines == ["one", "two"]


def test_stream_failure_shows_the_end_of_the_output():
    with pytest.raises(LabError) as caught:
        process.stream(["sh", "-c", "seq 100; exit 4"], lambda _: None, what="counting")
    assert "counting failed (exit 4)" in str(caught.value)
    assert "  100" in str(caught.value)
    assert "  50\n" not in str(caught.value)


def test_missing_program_of_a_stream_says_how_to_get_it():
    with pytest.raises(LabError, match="no-such-program is not installed") as caught:
        process.stream(["no-such-program"], lambda _: None)
    assert "make bootstrap" in caught.value.hint


KILLED = """
import os, sys
from lab import process
def die(line):
    print(line, flush=True)
    os.kill(os.getpid(), 9)
process.stream(["sh", "-c", "echo $$; exec sleep 60"], die)
"""


def test_commands_do_not_outlive_a_killed_run():
    result = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == -signal.SIGKILL
    child = Path(f"/proc/{int(result.stdout)}")
    deadline = time.monotonic() + 20
    while child.exists() and "zombie" not in (child / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_stop_all_ends_running_commands_with_their_children():
    started = threading.Event()
    errors = []

    def long():
        try:
            process.stream(["sh", "-c", "echo on; sleep 60 & wait"], lambda _: started.set(), what="long")
        except LabError as error:
            errors.append(error)

    thread = threading.Thread(target=long)
    thread.start()
    assert started.wait(20)
    begin = time.monotonic()
    process.stop_all()
    thread.join(20)
    assert time.monotonic() - begin < 20
    assert isinstance(errors[0], process.StoppedError)
    with pytest.raises(process.StoppedError):
        process.stream(["true"], lambda _: None)
