"""Locks that leave nothing behind."""

import signal
import subprocess
import sys
import threading

import pytest

from lab.config import ROOT
from lab.errors import LabError
from lab.locks import held


def test_second_holder_is_told():
    with held("test-one", busy="busy"), pytest.raises(LabError, match="busy"), held("test-one", busy="busy"):
        pass
    with held("test-one", busy="busy"):
        pass


def test_other_names_do_not_matter():
    with held("test-one", busy="busy"), held("test-two", busy="busy"):
        pass


def test_waiting_gets_it_when_it_is_free():
    entered, leave = threading.Event(), threading.Event()

    def holder():
        with held("test-wait", busy="busy"):
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=holder)
    thread.start()
    assert entered.wait(20)
    threading.Timer(0.2, leave.set).start()
    with held("test-wait", wait=20, busy="busy"):
        pass
    thread.join(20)


def test_a_killed_holder_frees_it():
    code = "import os; from lab.locks import held\nwith held('test-kill', busy=''): os.kill(os.getpid(), 9)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=30)
    assert result.returncode == -signal.SIGKILL
    with held("test-kill", busy="busy"):
        pass
