"""The programs of sockets, as far as no socket is needed: the kernel takes them. What they do is tested with
real sockets in tests/integration/datapath/test_sockets.py (the kernel cannot run them on made-up calls)."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.bpf import BpfObject
from podwire.bpf.programs import CGROUP_SOCK_ADDR
from podwire.datapath.hooks import SOCKET_PROGRAMS


@pytest.mark.parametrize("cookie", [0, 4711], ids=["host namespace unknown", "host namespace known"])
def test_the_kernel_takes_the_programs(objects: Path, cookie: int) -> None:
    with BpfObject.open(objects / "socket.bpf.o") as loaded:
        loaded.set_constants({"cfg_services": 1, "cfg_host_netns_cookie": cookie})
        loaded.load()
        assert set(loaded.program_names) == SOCKET_PROGRAMS.keys()
        for name in loaded.program_names:
            with loaded.program(name) as program:
                assert program.info.type == CGROUP_SOCK_ADDR
