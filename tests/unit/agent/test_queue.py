"""Stored DELs: done once, kept when they fail, set aside when they make no sense."""

from __future__ import annotations

import json
import os
from pathlib import Path

from podwire.agent.cni import CniError, Code
from podwire.agent.queue import drain


def store(directory: Path, name: str, age: int = 0) -> Path:
    path = directory / f"{name}-eth0.json"
    env = {"CNI_CONTAINERID": name, "CNI_IFNAME": "eth0"}
    path.write_text(json.dumps({"env": env, "config": {"cniVersion": "1.0.0"}}))
    os.utime(path, (1000 - age, 1000 - age))
    return path


def test_oldest_first_and_gone_afterwards(tmp_path: Path) -> None:
    store(tmp_path, "young", age=1)
    store(tmp_path, "old", age=9)
    done: list[str] = []
    assert drain(tmp_path, lambda container, ifname: done.append(f"{container}/{ifname}")) == 2
    assert done == ["old/eth0", "young/eth0"]
    assert list(tmp_path.iterdir()) == []


def test_failed_del_is_kept_and_does_not_stop_the_others(tmp_path: Path) -> None:
    kept = store(tmp_path, "stuck", age=9)
    store(tmp_path, "fine")

    def delete(container: str, _: str) -> None:
        if container == "stuck":
            raise CniError(Code.IO_FAILURE, "disk")

    assert drain(tmp_path, delete) == 1
    assert list(tmp_path.iterdir()) == [kept]


def test_nonsense_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    (tmp_path / "y.json").write_text(
        '{"env": {"CNI_CONTAINERID": "../../etc"}, "config": {"cniVersion": "1.0.0"}}'
    )
    (tmp_path / ".half").write_text("")
    assert drain(tmp_path, lambda *_: None) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".half", "x.bad", "y.bad"]


def test_no_queue_is_an_empty_queue(tmp_path: Path) -> None:
    assert drain(tmp_path / "none", lambda *_: None) == 0
