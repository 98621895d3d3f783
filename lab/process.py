"""Run other programs: their output goes to a log, their failures become ``LabError``."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError

Log = Callable[[str], object]

_streams: set[subprocess.Popen[str]] = set()
_stopping = threading.Event()


class StoppedError(LabError):
    """A command was ended because another part of the run failed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was stopped because another step failed")


def stop_all() -> None:
    """End every command that ``stream`` runs, and let none begin: the run has failed or was interrupted."""
    _stopping.set()
    for process in list(_streams):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    what: str = "",
    hint: str = "",
    check: bool = True,
    timeout: float | None = None,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a short command and return its result. With ``check`` a failure raises ``LabError`` naming it."""
    words = [os.fspath(word) for word in command]
    try:
        result = subprocess.run(
            words,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            input=stdin if stdin is not None else "",
            env=dict(env) if env is not None else None,
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed", "Run `make bootstrap`") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{what or ' '.join(words)}: no end after {timeout:.0f} s", hint) from error
    if check and result.returncode:
        raise failure(words, result.returncode, result.stderr.strip() or result.stdout.strip(), what, hint)
    return result


def stream(
    command: Sequence[str | os.PathLike[str]],
    log: Log,
    *,
    what: str = "",
    hint: str = "",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a long command; every line of its output goes to ``log``. A failure raises ``LabError``.

    The command runs in a process group of its own, which is ended when we are; even when we are killed, the
    kernel ends it, so that nothing works on against the next run.
    """
    words = [os.fspath(word) for word in command]
    if _stopping.is_set():
        raise StoppedError(what or words[0])
    search = (env or os.environ).get("PATH")
    if not shutil.which(words[0], path=search):
        raise LabError(f"{words[0]} is not installed", "Run `make bootstrap`")
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", "--", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(env) if env is not None else None,
        cwd=cwd,
        start_new_session=True,
    )
    last: list[str] = []
    _streams.add(process)
    try:
        assert process.stdout
        for line in process.stdout:
            log(line.rstrip("\n"))
            last = [*last[-14:], line.rstrip("\n")]
        process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        _streams.discard(process)
        if process.stdout:
            process.stdout.close()
    if process.returncode and _stopping.is_set():
        raise StoppedError(what or words[0])
    if process.returncode:
        raise failure(words, process.returncode, "\n".join(last), what, hint)


def failure(words: Sequence[str], code: int, output: str, what: str, hint: str) -> LabError:
    """The error for a command that ended with ``code``."""
    shown = "\n".join(f"  {line}" for line in output.splitlines()[-15:])
    subject = f"{what} failed" if what else "a command failed"
    return LabError(f"{subject} (exit {code}): {' '.join(words)[:300]}\n{shown}".rstrip(), hint)
