"""What is on disk survives, and what is broken there does no harm."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from podwire.agent.model import Endpoint, NodeInfo
from podwire.agent.state import StateError, StateStore, endpoint_json, read_json, write_json
from podwire.net.values import NetnsId

ENDPOINT = Endpoint(
    "c1",
    "eth0",
    "/run/netns/c1",
    NetnsId(4, 17),
    "10.1.0.2",
    "02:00:00:00:00:01",
    "lxcabc",
    9,
    3,
    "ns",
    "web",
    "u",
    1.5,
)
NODE = NodeInfo("node1", "10.1.1.0/24", ("192.0.2.1", "192.0.2.2"), "10.1.1.1", "uid")


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path / "state")


def test_endpoints_come_back_as_they_were(store: StateStore) -> None:
    store.save_endpoint(ENDPOINT)
    store.save_endpoint(replace(ENDPOINT, container_id="c2"))
    assert store.load_endpoints() == [ENDPOINT, replace(ENDPOINT, container_id="c2")]
    store.delete_endpoint(ENDPOINT.key)
    store.delete_endpoint(ENDPOINT.key)
    assert [endpoint.container_id for endpoint in store.load_endpoints()] == ["c2"]


def test_the_identity_survives(store: StateStore) -> None:
    known = replace(ENDPOINT, identity=4711, labels={"k8s:app": "web"})
    store.save_endpoint(known)
    [found] = store.load_endpoints()
    assert (found.identity, found.labels) == (4711, {"k8s:app": "web"})


def test_records_of_other_versions_are_read(store: StateStore) -> None:
    """Before there were identities nobody had one; what comes later is not understood, and no harm."""
    record = endpoint_json(ENDPOINT)
    del record["identity"], record["labels"]
    write_json(store.directory / "endpoints" / "c1-eth0.json", {"format": 1, **record, "colour": "red"})
    assert store.load_endpoints() == [replace(ENDPOINT, identity=3)]


def test_local_identities_come_back(store: StateStore) -> None:
    assert store.load_local_identities() == ({}, frozenset())
    cidrs = {IPv4Network("192.0.2.0/24"): 16777217}
    store.save_local_identities(cidrs, {"198.51.100.1"})
    assert store.load_local_identities() == (cidrs, {"198.51.100.1"})
    for content in ("", "[]", '{"cidrs": {"x": 1}}', '{"cidrs": 7}', '{"api_servers": ["x"]}'):
        (store.directory / "identities.json").write_text(content)
        assert store.load_local_identities() == ({}, frozenset())


def test_files_are_for_root_alone(store: StateStore) -> None:
    store.save_endpoint(ENDPOINT)
    path = store.directory / "endpoints" / "c1-eth0.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param('{"format": 1, "cont', id="cut short"),
        pytest.param("[]", id="no object"),
        pytest.param('{"format": 2}', id="another format"),
        pytest.param('{"format": 1, "container_id": "x"}', id="fields missing"),
        pytest.param("\x00\x00\x00", id="zeros"),
    ],
)
def test_unusable_records_are_set_aside_and_the_rest_loads(store: StateStore, content: str) -> None:
    store.save_endpoint(ENDPOINT)
    bad = store.directory / "endpoints" / "bad-eth0.json"
    bad.write_text(content)
    assert store.load_endpoints() == [ENDPOINT]
    assert not bad.exists()
    assert bad.with_suffix(".bad").read_text() == content


def test_leftovers_of_a_crash_while_writing_are_removed(store: StateStore) -> None:
    store.save_endpoint(ENDPOINT)
    half = store.directory / "endpoints" / ".c2-eth0.json.99.tmp"
    half.write_text("{")
    assert store.load_endpoints() == [ENDPOINT]
    assert not half.exists()


def test_failed_write_keeps_the_old_content_and_no_temporary(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save_endpoint(ENDPOINT)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("json.dump", full)
    with pytest.raises(StateError, match=r"c1-eth0\.json: No space left on device; free space"):
        store.save_endpoint(replace(ENDPOINT, slot=4))
    monkeypatch.undo()
    assert store.load_endpoints() == [ENDPOINT]
    assert [path.name for path in (store.directory / "endpoints").iterdir()] == ["c1-eth0.json"]


def test_nodes_come_back_and_broken_ones_count_as_unknown(store: StateStore) -> None:
    assert store.load_nodes() == ()
    store.save_nodes([NODE])
    assert store.load_nodes() == (NODE,)
    (store.directory / "nodes.json").write_text('{"nodes": [{"nonsense": 1}]}')
    assert store.load_nodes() == ()


def test_read_json_tells_absent_from_broken(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none") is None
    write_json(tmp_path / "some", {"a": 1})
    assert read_json(tmp_path / "some") == {"a": 1}
    (tmp_path / "some").write_text("{")
    with pytest.raises(StateError, match="cannot read"):
        read_json(tmp_path / "some")
