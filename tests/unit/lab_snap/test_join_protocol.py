"""The join protocol over real TLS: an agent on loopback, certificates made by openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mk8s import agent, certs, files, host, join, network, nodefiles, tokens
from mk8s.layout import Layout

SNAP_TREE = Path(__file__).parents[3] / "lab" / "snap" / "tree"
PEER_ADDRESS = "192.0.2.77"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been done to the machine's services."""
    done: list[str] = []
    monkeypatch.setattr(
        host, "systemctl", lambda action, *names, **_: done.append(f"{action} {' '.join(names)}")
    )
    monkeypatch.setattr(host, "addresses", lambda: [PEER_ADDRESS])
    monkeypatch.setattr(network, "apply", lambda _layout: done.append("apply"))
    monkeypatch.setattr(nodefiles, "protect", lambda _layout: None)
    return done


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The data of two nodes that were just installed: making their keys takes a second each."""
    made = []
    for name in ("contacted", "joining"):
        root = tmp_path_factory.mktemp(name)
        node = Layout(snap=SNAP_TREE, data=root / "x1", common=root / "common")
        nodefiles.create_directories(node)
        nodefiles.install_arguments(node)
        nodefiles.become_control_plane(node)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host, "addresses", lambda: [PEER_ADDRESS])
            nodefiles.create_cluster_identity(node)
        made.append(root)
    return made[0], made[1]


@pytest.fixture
def server(layout: Layout, calls: list[str], fresh: tuple[Path, Path]) -> Iterator[agent.Server]:
    shutil.copytree(fresh[0] / "x1", layout.data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(layout.cert("server.crt"), layout.cert("server.key"))
    with agent.Server(("127.0.0.1", 0), agent.Agent(layout), context) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def worker(tmp_path: Path, fresh: tuple[Path, Path]) -> Layout:
    """A node of its own that is about to join."""
    root = tmp_path / "worker"
    shutil.copytree(fresh[1], root)
    return Layout(snap=SNAP_TREE, data=root / "x1", common=root / "common")


def target(server: agent.Server, layout: Layout, *, token: str = "", check: str | None = "") -> join.Target:
    if not token:
        token = tokens.create()
        tokens.store(layout, token, -1)
    if check == "":
        check = certs.fingerprint(layout.cert("server.crt").read_text())[:12]
    return join.Target("127.0.0.1", server.server_address[1], token, check)


def test_joining_makes_a_worker(
    server: agent.Server, layout: Layout, worker: Layout, calls: list[str]
) -> None:
    changed = "--eviction-hard=nodefs.available<1%"
    files.write(layout.args("kubelet"), files.read(layout.args("kubelet")) + changed + "\n")
    files.write(worker.args("kubelet"), "--only-here=1\n")
    join.join_worker(worker, target(server, layout), verify=True)

    assert worker.is_worker
    assert worker.locked("no-k8s-dqlite")
    assert worker.locked("no-cert-reissue")
    assert not worker.locked("no-apiserver-proxy")
    assert not worker.locked("join-in-progress")
    kubelet = files.read(worker.args("kubelet"))
    assert changed in kubelet
    assert "--only-here" not in kubelet, "a join overwrites args/kubelet with the contacted node's"
    assert "microk8s-worker" in kubelet
    assert "controlplane" not in kubelet
    assert "--start-control-plane=false" in files.read(worker.args("kubelite"))
    assert "127.0.0.1:16443" in files.read(worker.provider)
    assert "start kubelite" in calls


def test_the_workers_certificates_are_the_clusters(
    server: agent.Server, layout: Layout, worker: Layout
) -> None:
    join.join_worker(worker, target(server, layout), verify=True)
    assert worker.cert("ca.remote.crt").read_text() == layout.cert("ca.crt").read_text()
    for name in ("kubelet", "proxy"):
        verified = subprocess.run(
            ["openssl", "verify", "-CAfile", layout.cert("ca.crt"), worker.cert(f"{name}.crt")],
            check=False,
            capture_output=True,
            text=True,
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(worker.cert("kubelet.crt"), worker.cert("kubelet.key"))  # they belong together


def test_the_first_join_moves_the_datastore_and_applies_the_default_network(
    server: agent.Server, layout: Layout, worker: Layout, calls: list[str]
) -> None:
    network.install_manifest(layout)
    layout.set_lock("cni-loaded")
    join.join_worker(worker, target(server, layout), verify=True)
    assert nodefiles.backend_addresses(layout) == ["127.0.0.1:19001"]  # the address that was contacted
    assert layout.locked("no-cert-reissue")
    assert "apply" in calls, "a lock does not keep the first join from applying cni.yaml"


def test_without_a_manifest_the_first_join_leaves_the_network_alone(
    server: agent.Server, layout: Layout, worker: Layout, calls: list[str]
) -> None:
    join.join_worker(worker, target(server, layout), verify=True)
    assert "restart k8s-dqlite" in calls
    assert "apply" not in calls


def test_later_joins_leave_datastore_and_network_alone(
    server: agent.Server, layout: Layout, worker: Layout, calls: list[str]
) -> None:
    files.write(layout.backend / "cluster.yaml", nodefiles.backend_members(["10.0.0.11"]))
    network.install_manifest(layout)
    join.join_worker(worker, target(server, layout), verify=True)
    assert "restart k8s-dqlite" not in calls
    assert "apply" not in calls


def test_a_wrong_fingerprint_stops_before_the_token_is_sent(
    server: agent.Server, layout: Layout, worker: Layout
) -> None:
    wanted = target(server, layout, check="0" * 12)
    with pytest.raises(join.JoinError, match="not the one") as raised:
        join.join_worker(worker, wanted, verify=True)
    assert raised.value.exit_code == 4
    assert wanted.token in layout.credential("cluster-tokens.txt").read_text()
    assert not worker.is_worker


def test_skip_verify_ignores_the_fingerprint(server: agent.Server, layout: Layout, worker: Layout) -> None:
    join.join_worker(worker, target(server, layout, check="0" * 12), verify=False)
    assert worker.is_worker


def test_an_invalid_token_is_refused(server: agent.Server, layout: Layout, worker: Layout) -> None:
    with pytest.raises(join.JoinError, match=r"invalid token \(500\)") as raised:
        join.join_worker(worker, target(server, layout, token="e" * 32), verify=True)
    assert raised.value.exit_code == 6
    assert not worker.locked("join-in-progress")


def test_nobody_listening_is_a_connection_error(server: agent.Server, worker: Layout) -> None:
    with pytest.raises(join.JoinError, match="cannot connect") as raised:
        join.join_worker(worker, join.Target("127.0.0.1", 1, "e" * 32, None), verify=True)
    assert raised.value.exit_code == 5


def test_a_node_cannot_join_itself(
    server: agent.Server, layout: Layout, worker: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "addresses", lambda: ["127.0.0.1"])
    with pytest.raises(join.JoinError, match=r"same address .*\(503\)"):
        join.join_worker(worker, target(server, layout), verify=True)


def test_only_node_certificates_are_signed(server: agent.Server, layout: Layout, tmp_path: Path) -> None:
    agent_of = server.agent
    token = str(agent_of.answer("10.0.0.11")["sign_token"])
    admin = certs.create_request(tmp_path, certs.Leaf("admin", "/O=system:masters/CN=admin"))
    with pytest.raises(agent.RefusedError, match="will not sign"):
        agent_of.sign({"token": token, "request": admin})
    both = certs.create_request(
        tmp_path, certs.Leaf("both", "/O=system:nodes/O=system:masters/CN=system:node:evil")
    )
    with pytest.raises(agent.RefusedError, match="will not sign"):
        agent_of.sign({"token": token, "request": both})
    with pytest.raises(agent.RefusedError, match="invalid token"):
        agent_of.sign({"token": "f" * 32, "request": admin})


def test_a_silent_client_holds_up_nobody(server: agent.Server, layout: Layout, worker: Layout) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", server.server_address[1])):
        join.join_worker(worker, target(server, layout), verify=True)
    assert worker.is_worker


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("cp1:25000/" + "a" * 32, "not an IPv4 address", id="host name"),
        pytest.param("[::1]:25000/" + "a" * 32, "not an IPv4 address", id="IPv6"),
        pytest.param("10.0.0.1/" + "a" * 32, "not an IPv4 address", id="no port"),
        pytest.param("10.0.0.1:x/" + "a" * 32, "not a port", id="port that is none"),
        pytest.param("10.0.0.1:25000/abc", "shorter than 32", id="short token"),
        pytest.param("10.0.0.1:25000/" + "a" * 32 + "/abc", "fingerprint is shorter", id="short fingerprint"),
    ],
)
def test_wrong_join_urls_say_why(url: str, reason: str) -> None:
    with pytest.raises(join.JoinError, match=reason) as raised:
        join.parse_target(url)
    assert raised.value.exit_code == 1


def test_a_join_url_without_fingerprint_is_not_verified() -> None:
    assert join.parse_target("10.0.0.1:25000/" + "a" * 32).check is None


def test_leaving_gives_the_defaults_back(
    server: agent.Server, layout: Layout, worker: Layout, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join.containers, "delete_all", lambda _layout: calls.append("delete containers"))
    monkeypatch.setattr(network, "remove_links", lambda: calls.append("remove links"))
    join.join_worker(worker, target(server, layout), verify=True)
    files.write(worker.args("kube-proxy"), "--cleanup=true\n")
    join.leave(worker)
    defaults = worker.snap / "default-args"
    for component in ("kubelet", "kube-proxy", "kubelite"):
        assert files.read(worker.args(component)) == (defaults / component).read_text()
    assert not worker.is_worker
    assert not worker.locked("cni-loaded")
    assert worker.cert("ca.crt").read_text() != layout.cert("ca.crt").read_text()
    assert not worker.cert("ca.remote.crt").exists()


def test_a_node_that_never_joined_cannot_leave(worker: Layout) -> None:
    with pytest.raises(join.JoinError, match="not a node of a cluster") as raised:
        join.leave(worker)
    assert raised.value.exit_code == 1


def test_openssl_is_here() -> None:
    assert shutil.which("openssl"), "these tests make certificates: install openssl"
