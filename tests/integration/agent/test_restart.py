"""The agent may die at any time: traffic goes on, and the next agent brings everything in order."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from .lab import Network, Node, Pod, eventually, finish, run

Make = Callable[..., Node]

SERVER = textwrap.dedent(
    """
    import socketserver, sys
    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(4096):
                self.request.sendall(data)
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer((sys.argv[1], 7000), Echo) as server:
        print("listening", flush=True)
        server.serve_forever()
    """
)
CLIENT = textwrap.dedent(
    """
    import socket, sys, time
    end, done = time.monotonic() + float(sys.argv[2]), 0
    with socket.create_connection((sys.argv[1], 7000), timeout=5) as connection:
        while time.monotonic() < end:
            connection.sendall(b"x" * 64)
            got = 0
            while got < 64:
                got += len(connection.recv(4096))
            done += 1
            time.sleep(0.002)
    print(done)
    """
)


def test_killed_agent_costs_no_packet_and_no_connection(node: Node) -> None:
    one, two = node.add("one"), node.add("two")
    server = two.popen(sys.executable, "-c", SERVER, two.address)
    try:
        assert server.stdout
        assert server.stdout.readline() == "listening\n"
        ping = one.popen("ping", "-n", "-i", "0.02", "-c", "250", "-W", "1", two.address)
        host_ping = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{node.netns}",
                "ping",
                "-n",
                "-i",
                "0.02",
                "-c",
                "250",
                one.address,
            ],
            text=True,
            stdout=subprocess.PIPE,
        )
        client = one.popen(sys.executable, "-c", CLIENT, two.address, "5")
        for _ in range(2):
            time.sleep(0.5)
            node.kill(signal.SIGKILL)
            time.sleep(0.5)
            node.start()
        for process in (ping, host_ping):
            output, _ = process.communicate(timeout=60)
            assert " 250 received, 0% packet loss" in output, output
        output, _ = client.communicate(timeout=60)
        assert client.returncode == 0, output
        assert int(output) > 100
    finally:
        server.kill()
        server.communicate()


def test_restart_keeps_pods_and_gives_no_address_twice(node: Node) -> None:
    one = node.add("one")
    before = node.local_addresses(), node.routes(), node.links()
    node.kill(signal.SIGKILL)
    node.start()
    assert (node.local_addresses(), node.routes(), node.links()) == before
    assert node.cni("CHECK", "one", prevResult=one.result) == (0, None)
    assert node.add("two").address not in before[0]
    assert one.ping(node.pods["two"].address)


def test_sigterm_ends_the_agent_cleanly_and_leaves_the_network(node: Node) -> None:
    one, two = node.add("one"), node.add("two")
    assert node.kill(signal.SIGTERM) == 0
    assert one.ping(two.address)
    assert "Traceback" not in node.log()


def test_stored_dels_are_carried_out_at_start(node: Node) -> None:
    node.add("one")
    node.kill(signal.SIGKILL)
    code, answer = node.cni("ADD", "other")
    assert (code, answer["code"]) == (1, 11)
    assert "systemctl status podwire-agent" in answer["msg"]
    assert node.cni("DEL", "one") == (0, None)
    assert [path.name for path in (node.state / "cni-queue").iterdir()] == [f"c{node.netns}one-eth0.json"]
    node.start()
    assert node.records() == {"podwire-health-eth0"}
    assert list((node.state / "cni-queue").iterdir()) == []
    assert len(node.links()) == 1


def test_dels_stored_while_running_are_carried_out_soon(node: Node) -> None:
    node.add("one")
    socket = node.run_dir / "cni.sock"
    socket.rename(socket.with_suffix(".away"))
    assert node.cni("DEL", "one") == (0, None)
    eventually(lambda: node.records() == {"podwire-health-eth0"})


def test_start_removes_what_a_crash_left(node: Node) -> None:
    """A link without a record, a record without a namespace, entries and routes of nobody."""
    one = node.add("one")
    gone = node.add("gone")
    orphan = node.add("orphan")
    node.kill(signal.SIGKILL)
    (node.state / "endpoints" / f"c{node.netns}orphan-eth0.json").unlink()
    gone.remove()
    (node.state / "endpoints" / ".half.json.1.tmp").write_text('{"form')
    (node.state / "endpoints" / "broken-eth0.json").write_text('{"form')
    stray = node.datapath.map("podwire_endpoints4")
    stray.set({"address": int.from_bytes(bytes([10, 201, 1, 99]), "big")}, {"ifindex": 99, "slot": 9})
    node.exec("ip", "route", "add", "10.201.9.0/24", "via", "10.200.0.254", "proto", "112")
    node.start()
    assert node.records() == {f"c{node.netns}one-eth0", "podwire-health-eth0"}
    assert len(node.links()) == 2
    assert node.local_addresses() == {one.address, "10.201.1.1"}
    assert node.routes() == {one.address, "10.201.1.1"}
    assert {p.name for p in (node.state / "endpoints").iterdir() if p.suffix != ".json"} == {
        "broken-eth0.bad"
    }
    assert orphan.exec("ip", "link", "show", "eth0", check=False).returncode != 0
    pins = {path.name.partition("-")[0] for path in (node.bpffs / "podwire" / "links").iterdir()}
    assert len(pins) == 3  # eth0, one, health


def test_start_builds_a_lost_interface_again(node: Node) -> None:
    one, two = node.add("one"), node.add("two")
    node.kill(signal.SIGKILL)
    node.exec("ip", "link", "del", one.result["interfaces"][0]["name"])
    node.start()
    assert one.ping(two.address)
    assert node.cni("CHECK", "one", prevResult=one.result) == (0, None)


def test_start_loads_the_datapath_again_after_a_reboot(node: Node) -> None:
    """Pins, links and namespaces are gone after a reboot; state on disk is not."""
    node.add("one")
    node.kill(signal.SIGKILL)
    node.remove_netns("one")
    run("ip", "netns", "del", f"{node.netns}h")
    eventually(lambda: not node.links())
    run("umount", str(node.bpffs))
    run("mount", "-t", "bpf", "bpf", str(node.bpffs))
    node.start()
    assert node.records() == {"podwire-health-eth0"}
    assert node.add("two").ping(node.address)


def test_drift_is_repaired(node: Node) -> None:
    pod = node.add("one")
    node.exec("ip", "route", "del", f"{pod.address}/32")
    address = int.from_bytes(bytes(map(int, pod.address.split("."))), "big")
    assert node.datapath.map("podwire_endpoints4").delete({"address": address})
    eventually(lambda: pod.address in node.routes() and pod.address in node.local_addresses())
    assert eventually(lambda: pod.ping(node.address))
    assert node.get("/v1/status")["counters"]["repaired"] == 2


def test_unknown_nodes_are_no_reason_to_cut_traffic(make_node: Make) -> None:
    first, second = make_node(), make_node()
    eventually(lambda: second.pod_cidr in first.routes() and first.pod_cidr in second.routes())
    one, two = first.add("one"), second.add("two")
    assert eventually(lambda: one.ping(two.address))
    first.kill(signal.SIGKILL)
    (first.state / "nodes.json").unlink()
    content = first.node_file.read_text()
    first.node_file.write_text("broken: [")
    first.start(wait=False)
    reasons = eventually(lambda: _reasons(first, "is unknown"))
    assert "node1 is unknown" in reasons
    assert second.pod_cidr in first.routes()
    assert one.ping(two.address)
    first.node_file.write_text(content)
    eventually(first.ready)
    assert one.ping(two.address)


def test_calls_leave_no_descriptor_open(node: Node) -> None:
    assert node.agent

    def descriptors() -> int:
        assert node.agent
        return len(list(Path(f"/proc/{node.agent.pid}/fd").iterdir()))

    for number in range(8):  # every worker opens its own socket once
        node.add(f"warm{number}")
        node.delete(f"warm{number}")
    before = descriptors()
    for number in range(10):
        pod = node.add(f"p{number}")
        assert node.cni("CHECK", f"p{number}", prevResult=pod.result)[0] == 0
        node.delete(f"p{number}")
    # Background work may hold some for a moment.
    eventually(lambda: descriptors() <= before + 2)


def test_routes_come_back_soon_after_a_device_went_down(make_node: Make) -> None:
    first, second = make_node(resync_interval=600.0), make_node()
    eventually(lambda: second.pod_cidr in first.routes())
    first.exec("ip", "link", "set", "eth0", "down")
    eventually(lambda: second.pod_cidr not in first.routes())
    first.exec("ip", "link", "set", "eth0", "up")
    eventually(lambda: second.pod_cidr in first.routes(), 8)


def test_changed_host_route_makes_cached_next_hops_stale(make_node: Make) -> None:
    node = make_node(resync_interval=600.0)

    def revision() -> int:
        value = node.datapath.map("podwire_slots").get(0)
        assert value
        return int(value["revision"])

    before = revision()
    node.exec("ip", "route", "replace", "default", "via", "10.200.0.253")
    eventually(lambda: revision() > before)


def test_pods_of_this_node_are_no_reason_to_look_at_the_host_again(make_node: Make) -> None:
    node = make_node(resync_interval=600.0)
    slots = node.datapath.map("podwire_slots")
    before = slots.get(0)
    node.add("one")
    node.delete("one")
    time.sleep(1.5)
    assert slots.get(0) == before


def test_wrong_node_ip_is_said(network: Network) -> None:
    node = network.add_node(node_ip="10.200.0.77")
    node.load()
    node.start(wait=False)

    def reasons() -> str:
        try:
            return " ".join(node.get("/v1/status")["reasons"])
        except OSError:
            return ""

    eventually(lambda: "node_ip 10.200.0.77 is not an address of this host" in reasons())


def test_killed_in_the_middle_of_many_adds_it_leaves_whole_pods_or_none(node: Node) -> None:
    """Wherever the agent dies in an ADD, the next one finds order: links, records, maps and routes agree."""
    names = [f"p{number}" for number in range(12)]
    for name in names:
        node.new_netns(name)
    for delay in (0.03, 0.1, 0.2):
        calls = [node.cni_process("ADD", name, node.cni_config()) for name in names]
        time.sleep(delay)
        node.kill(signal.SIGKILL)
        codes = [finish(call)[0] for call in calls]
        assert set(codes) <= {0, 1}
        node.start()
        whole = node.records() - {"podwire-health-eth0"}
        assert len(node.links()) == len(whole) + 1
        assert len(node.local_addresses()) == len(whole) + 1
        assert node.routes() == node.local_addresses()
        answered = {name for name, code in zip(names, codes, strict=True) if code == 0}
        assert {f"c{node.netns}{name}-eth0" for name in answered} <= whole
        calls = [node.cni_process("ADD", name, node.cni_config()) for name in names]
        results = [finish(call) for call in calls]
        assert [code for code, _ in results] == [0] * len(names), results
        addresses = [result["ips"][0]["address"] for _, result in results]
        assert len(set(addresses)) == len(names)
        node.pods[names[0]].address = addresses[0].partition("/")[0]
        assert node.pods[names[-1]].ping(node.pods[names[0]].address)
        for name in names:
            assert node.cni("DEL", name) == (0, None)
        assert node.links() and len(node.links()) == 1


def test_a_pod_whose_namespace_vanished_is_collected(node: Node) -> None:
    node.add("one").remove()
    eventually(lambda: node.records() == {"podwire-health-eth0"})
    assert len(node.links()) == 1
    assert node.get("/v1/status")["ipam"]["used"] == 0


def test_second_agent_is_refused(node: Node) -> None:
    command = [sys.executable, "-m", "podwire.agent.main", "--config", str(node.config_file)]
    done = node.exec(*command, check=False)
    assert done.returncode == 78
    assert "another podwire-agent holds" in done.stderr
    assert node.ready()


def test_agent_waits_for_the_datapath_and_says_so(network: Network) -> None:
    node = network.add_node()
    node.start(wait=False)

    def reasons() -> list[str]:
        try:
            return list(node.get("/v1/status")["reasons"])
        except OSError:
            return []

    assert (
        "no datapath is loaded on this node"
        in eventually(lambda: [r for r in reasons() if "starting" not in r])[0]
    )
    node.load()
    eventually(node.ready)


def test_nodes_find_each_other_and_forget_deleted_ones(make_node: Make, network: Network) -> None:
    first, second = make_node(), make_node()
    eventually(lambda: second.pod_cidr in first.routes())
    one, two = first.add("one"), second.add("two")
    assert eventually(lambda: one.ping(two.address))
    assert eventually(lambda: two.ping(one.address))
    assert one.ping(second.address)
    code, health = eventually(lambda: _healthy(first))
    assert code == 200
    assert {check["name"] for check in health["checks"]} == {
        "agent",
        "datapath",
        "pod",
        "node:node2",
        "pod:node2",
    }

    second.kill(signal.SIGTERM)
    network.nodes.remove(second)
    try:
        network.write_nodes()
        eventually(lambda: second.pod_cidr not in first.routes())
        eventually(lambda: not one.ping(two.address))
    finally:
        second.close()


def _reasons(node: Node, part: str) -> str:
    try:
        text = " ".join(node.get("/v1/status")["reasons"])
    except OSError:
        return ""
    return text if part in text else ""


def _healthy(node: Node) -> object:
    code, health = node.request("GET", "/v1/health?probe=1")
    return (code, health) if code == 200 and len(health["checks"]) == 5 else None


def test_health_names_the_node_that_does_not_answer(make_node: Make) -> None:
    first, second = make_node(), make_node()
    eventually(lambda: _healthy(first))
    second.exec("ip", "link", "set", "eth0", "down")
    code, health = first.request("GET", "/v1/health?probe=1")
    assert code == 503
    bad = {check["name"]: check["detail"] for check in health["checks"] if not check["ok"]}
    assert set(bad) == {"node:node2", "pod:node2"}
    assert second.health_address in bad["pod:node2"]


def test_host_routing_switch_keeps_a_connection_and_is_counted_by_netfilter(make_node: Make) -> None:
    first, second = make_node(), make_node()
    eventually(lambda: second.pod_cidr in first.routes() and first.pod_cidr in second.routes())
    one, two = first.add("one"), second.add("two")
    server = two.popen(sys.executable, "-c", SERVER, two.address)
    try:
        assert server.stdout
        assert server.stdout.readline() == "listening\n"
        client = one.popen(sys.executable, "-c", CLIENT, two.address, "4")
        ping = one.popen("ping", "-n", "-i", "0.02", "-c", "150", "-W", "2", two.address)
        time.sleep(1)
        ebpf = first.get("/v1/status")["netfilter_forward_packets"]
        code, answer = first.request("PUT", "/v1/host-routing", {"mode": "legacy"})
        assert (code, answer["changed"], answer["before"], answer["after"]) == (200, True, "ebpf", "legacy")
        output, _ = client.communicate(timeout=60)
        assert client.returncode == 0, output
        lost, _ = ping.communicate(timeout=60)
        assert " 150 received, 0% packet loss" in lost, lost
        assert ebpf == 0
        assert first.get("/v1/status")["netfilter_forward_packets"] > 100
        code, answer = first.request("PUT", "/v1/host-routing", {"mode": "legacy"})
        assert (code, answer["changed"]) == (200, False)
        first.kill(signal.SIGKILL)
        first.start()
        assert first.get("/v1/status")["datapath"]["mode"] == "legacy"
    finally:
        server.kill()
        server.communicate()


def test_drops_are_shown_with_their_reason(node: Node) -> None:
    pod = node.add("one")
    last = node.get("/v1/drops")["last"]
    assert not pod.ping("10.201.1.200")  # an address of this node that no pod has
    events = eventually(lambda: node.get(f"/v1/drops?since={last}&wait=5")["events"])
    assert (events[0]["source"], events[0]["destination"]) == (pod.address, "10.201.1.200")
    assert re.fullmatch("[a-z0-9_]+", events[0]["reason_name"])
    metrics = node.get("/v1/metrics")
    assert any(d["reason"] == events[0]["reason"] and d["packets"] for d in metrics["drops"])


def test_cleanup_gives_the_node_back(node: Node) -> None:
    pod: Pod = node.add("one")
    node.kill(signal.SIGTERM)
    command = [sys.executable, "-m", "podwire.agent.main", "--config", str(node.config_file), "--cleanup"]
    assert node.exec(*command).returncode == 0
    assert node.links() == set()
    assert node.routes() == set()
    assert not (node.bpffs / "podwire").exists()
    assert not node.records()
    tables = json.loads(node.exec("nft", "-j", "list", "tables").stdout)["nftables"]
    assert not [item for item in tables if item.get("table", {}).get("name") == "podwire"]
    assert pod.exec("ip", "link", "show", "eth0", check=False).returncode != 0
    assert run("ip", "netns", "list").stdout.find(f"{node.netns}h") < 0
    assert node.exec(*command).returncode == 0  # again: nothing to do, no error
