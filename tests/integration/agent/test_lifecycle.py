"""Pods come and go on one node."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .lab import Node, eventually, finish

Make = Callable[..., Node]


def test_pod_gets_an_address_and_reaches_gateway_host_and_neighbour(node: Node) -> None:
    one, two = node.add("one"), node.add("two")
    assert one.address == "10.201.1.2"
    assert two.address == "10.201.1.3"
    assert one.ping(two.address)
    assert one.ping(node.address)
    assert node.exec("ping", "-n", "-c", "1", "-W", "1", one.address).returncode == 0


def test_result_names_both_interfaces_as_they_are(node: Node) -> None:
    pod = node.add("one")
    host, inside = pod.result["interfaces"]
    links = json.loads(node.exec("ip", "-j", "link", "show", host["name"]).stdout)
    assert links[0]["address"] == host["mac"]
    assert links[0]["operstate"] == "UP"
    eth0 = json.loads(pod.exec("ip", "-j", "addr", "show", "eth0").stdout)[0]
    assert eth0["address"] == inside["mac"]
    assert [(a["local"], a["prefixlen"]) for a in eth0["addr_info"]] == [(pod.address, 32)]
    assert inside["sandbox"] == f"/run/netns/{pod.netns}"


def test_repeated_add_gives_the_same_answer(node: Node) -> None:
    first = node.add("one").result
    code, second = node.cni("ADD", "one")
    assert code == 0
    assert second == first
    assert len(node.local_addresses()) == 2  # the pod and the health endpoint


def test_add_for_a_new_namespace_under_an_old_id_starts_over(node: Node) -> None:
    node.add("one")
    node.pods["one"].remove()
    node.new_netns("one")
    code, result = node.cni("ADD", "one")
    assert code == 0, result
    node.pods["one"].address = result["ips"][0]["address"].partition("/")[0]
    assert node.pods["one"].ping(node.address)
    assert len(node.links()) == 2


def test_del_removes_every_trace_and_may_be_repeated(node: Node) -> None:
    before = node.links(), node.routes(), node.local_addresses(), node.records()
    node.add("one")
    assert node.links() != before[0]
    assert node.cni("DEL", "one") == (0, None)
    assert (node.links(), node.routes(), node.local_addresses(), node.records()) == before
    assert node.get("/v1/status")["ipam"]["used"] == 0
    assert node.cni("DEL", "one") == (0, None)


def test_del_of_the_unknown_succeeds(node: Node) -> None:
    assert node.cni("DEL", "never-seen") == (0, None)


def test_check_passes_for_a_whole_pod_and_names_what_is_broken(node: Node) -> None:
    pod = node.add("one")
    assert node.cni("CHECK", "one", prevResult=pod.result) == (0, None)
    pod.exec("ip", "addr", "flush", "dev", "eth0")
    code, answer = node.cni("CHECK", "one", prevResult=pod.result)
    assert code == 1
    assert f"lost its address {pod.address}" in answer["msg"]


def test_check_of_the_unknown_is_error_3(node: Node) -> None:
    code, answer = node.cni("CHECK", "ghost", prevResult={})
    assert (code, answer["code"]) == (1, 3)


def test_gc_removes_what_the_runtime_no_longer_knows(node: Node) -> None:
    node.add("keep")
    node.add("drop")
    valid = [{"containerID": f"c{node.netns}keep", "ifname": "eth0"}]
    code, answer = node.cni("GC", "-", version="1.1.0", **{"cni.dev/valid-attachments": valid})
    assert (code, answer) == (0, None)
    assert node.records() == {f"c{node.netns}keep-eth0", "podwire-health-eth0"}


def test_status_says_whether_adds_can_be_served(node: Node) -> None:
    assert node.cni("STATUS", "-", version="1.1.0") == (0, None)


def test_missing_namespace_is_error_3(node: Node) -> None:
    code, answer = node.cni("ADD", "nowhere")
    assert (code, answer["code"]) == (1, 3)
    assert "No such file" in answer["msg"]


def test_a_file_that_is_no_namespace_never_touches_the_host(node: Node, tmp_path: Path) -> None:
    (Path("/run/netns") / f"{node.netns}fake").touch()
    try:
        code, answer = node.cni("ADD", "fake")
        assert (code, answer["code"]) == (1, 3)
        assert "is not a network namespace" in answer["msg"]
    finally:
        (Path("/run/netns") / f"{node.netns}fake").unlink()


def test_fifty_pods_at_once(node: Node) -> None:
    names = [f"p{number}" for number in range(50)]
    for name in names:
        node.new_netns(name)
    answers = [finish(p) for p in [node.cni_process("ADD", name, node.cni_config()) for name in names]]
    assert [code for code, _ in answers] == [0] * 50, [answer for code, answer in answers if code]
    addresses = [answer["ips"][0]["address"].partition("/")[0] for _, answer in answers]
    assert len(set(addresses)) == 50
    assert node.local_addresses() >= set(addresses)
    slots = [e["slot"] for e in node.get("/v1/endpoints")["endpoints"]]
    assert len(set(slots)) == 51
    pods = [node.pods[name] for name in names]
    assert pods[0].ping(addresses[-1])
    assert pods[-1].ping(addresses[0])
    assert [finish(p)[0] for p in [node.cni_process("DEL", name, node.cni_config()) for name in names]] == [
        0
    ] * 50
    assert node.records() == {"podwire-health-eth0"}
    assert len(node.links()) == 1


def test_add_and_del_at_once_for_one_container_leave_nothing_or_everything(node: Node) -> None:
    node.new_netns("one")
    calls = [node.cni_process(c, "one", node.cni_config()) for c in ("ADD", "DEL", "ADD", "DEL", "ADD")]
    assert [finish(call)[0] for call in calls] == [0] * 5
    whole = f"c{node.netns}one-eth0" in node.records()
    assert len(node.links()) == 1 + whole
    assert len(node.local_addresses()) == 1 + whole
    assert len(node.routes()) == 1 + whole


def test_a_released_address_is_the_last_to_be_used_again(node: Node) -> None:
    first = node.add("one").address
    node.delete("one")
    assert node.add("two").address != first


def test_full_podcidr_is_said_and_heals_after_a_del(make_node: Make) -> None:
    node = make_node(pod_cidr="10.201.1.0/29")
    for number in range(5):
        node.add(f"p{number}")
    node.new_netns("late")
    code, answer = node.cni("ADD", "late")
    assert code == 1
    assert "no address left in podCIDR 10.201.1.0/29" in answer["msg"]
    node.delete("p3")
    code, answer = node.cni("ADD", "late")
    assert code == 0, answer


def test_full_map_is_said_and_leaves_nothing_behind(make_node: Make) -> None:
    # The node's own address, its health endpoint and two pods fill four entries.
    node = make_node(map_entries={"podwire_endpoints4": 4})
    node.add("one")
    node.add("two")
    before = node.links(), node.routes(), node.records()
    node.new_netns("three")
    code, answer = node.cni("ADD", "three")
    assert code == 1
    assert "map podwire_endpoints4 is full: all 4 entries are in use" in answer["msg"]
    assert (node.links(), node.routes(), node.records()) == before
    node.delete("one")
    code, answer = node.cni("ADD", "three")
    assert code == 0, answer


def test_no_slot_left_is_said(make_node: Make) -> None:
    node = make_node(map_entries={"podwire_slots": 3})  # slot 0, the health endpoint, one pod
    node.add("one")
    node.new_netns("two")
    code, answer = node.cni("ADD", "two")
    assert code == 1
    assert "map podwire_slots" in answer["msg"]


def test_full_disk_is_said_and_leaves_nothing_behind(make_node: Make) -> None:
    node = make_node()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(node.state / "endpoints")], check=True
    )
    try:
        (node.state / "endpoints" / "filler").write_bytes(b"x" * 60_000)
        with (
            pytest.raises(OSError, match="No space"),
            (node.state / "endpoints" / "rest").open("wb", 0) as rest,
        ):
            while True:
                rest.write(b"x" * 4096)
        before = node.links(), node.routes(), node.local_addresses()
        node.new_netns("one")
        code, answer = node.cni("ADD", "one")
        assert (code, answer["code"]) == (1, 5)
        assert "No space left on device" in answer["msg"]
        assert (node.links(), node.routes(), node.local_addresses()) == before
        (node.state / "endpoints" / "filler").unlink()
        code, answer = node.cni("ADD", "one")
        assert code == 0, answer
    finally:
        subprocess.run(["umount", str(node.state / "endpoints")], check=True)


def test_sockets_belong_to_root_alone(node: Node) -> None:
    for name in ("agent.sock", "cni.sock"):
        assert stat.S_IMODE((node.run_dir / name).stat().st_mode) == 0o600


def test_node_without_podcidr_refuses_pods_and_says_why(make_node: Make, network: object) -> None:
    node = network.add_node(pod_cidr=None)  # type: ignore[attr-defined]
    node.load()
    node.start(wait=False)
    status = eventually(lambda: _status(node))
    assert not status["ready"]
    node.new_netns("one")

    def refused() -> str:
        code, answer = node.cni("ADD", "one")
        assert (code, answer["code"]) == (1, 11)
        return answer["msg"] if "podCIDR" in answer["msg"] else ""

    assert "has no IPv4 podCIDR" in eventually(refused)
    assert node.cni("STATUS", "-", version="1.1.0")[1]["code"] == 50
    assert node.cni("DEL", "one") == (0, None)
    node.pod_cidr = "10.201.1.0/24"
    node.network.write_nodes()
    eventually(node.ready)
    assert node.cni("ADD", "one")[0] == 0


def _status(node: Node) -> object:
    try:
        return node.get("/v1/status")
    except OSError:
        return None
