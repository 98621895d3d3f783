"""Services with the real agent, kernel, clients and servers; the objects come from a file."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import conversation
from .conftest import network_in
from .lab import Network, Node, Pod, eventually, run
from .objects import endpoint, port, service, slice_of

VIP = "10.202.0.10"
SCRIPT = str(conversation.__file__)


class Processes:
    """Processes in pods."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def serve(self, pod: Pod, number: int, protocol: str = "tcp") -> subprocess.Popen[str]:
        """A server in a pod; it answers with the pod's name."""
        process = pod.popen(sys.executable, SCRIPT, "serve", pod.name, protocol, str(number))
        self._stack.callback(end, process)
        assert process.stdout
        assert process.stdout.readline().strip() == "ready"
        return process

    def keep(self, client: Pod, protocol: str, address: str, number: int, *, in_socket: bool = True) -> Talk:
        """A client that goes on asking over one connection; services are translated in its socket, or only
        per packet."""
        process = client.popen(
            sys.executable, SCRIPT, "keep", protocol, address, str(number), in_cgroup=in_socket
        )
        self._stack.callback(end, process)
        return Talk(process)

    def close(self) -> None:
        self._stack.close()


class Talk:
    """What a client that goes on asking was answered so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.answers: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        with contextlib.suppress(ValueError):
            for line in self.process.stdout:
                self.answers.append(line.strip())

    def names(self, since: int = 0) -> set[str]:
        return {answer.partition(" ")[0] for answer in self.answers[since:]}


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def ask(client: Pod | Node, address: str, number: int, protocol: str = "tcp", count: int = 1) -> list[str]:
    """Answers as (name client-address), or the names of errors."""
    done = client.exec(sys.executable, SCRIPT, "ask", protocol, address, str(number), str(count))
    return done.stdout.split("\n")[:-1]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, objects: Path, cni_plugin: Path) -> Iterator[Network]:
    """Two nodes in force, on which all tests here add pods and services of their own."""
    with network_in(tmp_path_factory.mktemp("services"), objects, cni_plugin) as network:
        nodes = [network.add_node(kube_proxy_replacement=True) for _ in range(2)]
        for node in nodes:
            node.load()
            network.write_services()
            node.start()
        for node in nodes:
            eventually(lambda node=node: node.get("/v1/status")["services"]["synced"])
        yield network


@pytest.fixture(scope="module")
def backends(network: Network) -> Iterator[tuple[Pod, Pod]]:
    """A serving pod on each node, behind the service ``web`` (TCP and UDP 80 to 8080)."""
    with contextlib.closing(Processes()) as processes:
        pods = (network.nodes[0].add("b1"), network.nodes[1].add("b2"))
        for pod in pods:
            processes.serve(pod, 8080, "tcp")
            processes.serve(pod, 8080, "udp")
        yield pods


@pytest.fixture
def processes(network: Network) -> Iterator[Processes]:
    """Whatever a test adds is gone after it; only the backends stay."""
    processes = Processes()
    logged = [len(node.log()) for node in network.nodes]
    try:
        yield processes
    finally:
        processes.close()
        for node, length in zip(network.nodes, logged, strict=True):
            if node.agent is None:
                node.start()
            for name in set(node.pods) - {"b1", "b2"}:
                node.delete(name)
            print(node.log()[length:])
        network.write_services()
        for node in network.nodes:
            eventually(lambda node=node: node.get("/v1/status")["services"]["frontends"] == 0)


@pytest.fixture
def pair(processes: Processes, network: Network) -> tuple[Node, Node]:
    """The nodes, without services."""
    return network.nodes[0], network.nodes[1]


PORTS = (port(80, 8080, name="t"), port(80, 8080, name="u", protocol="UDP"))


def web(*ends: dict[str, Any], **spec: Any) -> list[dict[str, Any]]:
    """The service ``web`` and its slice."""
    named = ({"port": 8080, "name": "t"}, {"port": 8080, "name": "u", "protocol": "UDP"})
    return [service("web", VIP, *PORTS, **spec), slice_of("web", ends, *named)]


def publish(network: Network, *objects: dict[str, Any]) -> None:
    """Have all agents put these objects in force."""
    before = [node.get("/v1/status")["services"]["changes"] for node in network.nodes]
    network.write_services(*objects)
    for node, count in zip(network.nodes, before, strict=True):
        eventually(lambda node=node, count=count: node.get("/v1/status")["services"]["changes"] > count)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_cluster_ip_reaches_backends_on_both_nodes_with_the_clients_address(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod], protocol: str
) -> None:
    publish(network, *web(endpoint(backends[0].address, "node1"), endpoint(backends[1].address, "node2")))
    client = pair[0].add("c")
    answers = ask(client, VIP, 80, protocol, 40)
    assert set(answers) == {f"b1 {client.address}", f"b2 {client.address}"}


def test_the_node_itself_reaches_services(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    publish(network, *web(endpoint(backends[0].address, "node1"), endpoint(backends[1].address, "node2")))
    assert {answer.split()[0] for answer in ask(pair[0], VIP, 80, "tcp", 40)} == {"b1", "b2"}


def test_a_pod_reaches_itself_by_its_service(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    publish(network, *web(endpoint(backends[0].address, "node1")))
    assert {answer.split()[0] for answer in ask(backends[0], VIP, 80, "tcp", 3)} == {"b1"}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_without_backends_the_client_is_refused_at_once(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod], protocol: str
) -> None:
    publish(network, *web(endpoint(backends[0].address, "node1", ready=False)))
    client = pair[0].add("c")
    started = time.monotonic()
    assert ask(client, VIP, 80, protocol) == ["ConnectionRefusedError"]
    assert time.monotonic() - started < 2


def test_an_endpoint_that_leaves_gets_no_new_connections_but_keeps_the_old_ones(
    network: Network, processes: Processes, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    publish(network, *web(endpoint(backends[0].address, "node1")))
    client = pair[0].add("c")
    talk = processes.keep(client, "tcp", VIP, 80)
    eventually(lambda: talk.answers)
    publish(network, *web(endpoint(backends[1].address, "node2")))
    assert {answer.split()[0] for answer in ask(client, VIP, 80, "tcp", 5)} == {"b2"}
    seen = len(talk.answers)
    eventually(lambda: len(talk.answers) > seen + 3)
    assert talk.names() == {"b1"}


def test_internal_traffic_policy_local_keeps_to_the_node(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    ends = [endpoint(backends[0].address, "node1"), endpoint(backends[1].address, "node2")]
    publish(network, *web(*ends, internalTrafficPolicy="Local"))
    for node, name in zip(pair, ("b1", "b2"), strict=True):
        assert {answer.split()[0] for answer in ask(node.add("c"), VIP, 80, "tcp", 10)} == {name}


def test_endpoints_that_serve_while_they_terminate_are_the_last_resort(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    leaving = endpoint(backends[0].address, "node1", ready=False, serving=True, terminating=True)
    publish(network, *web(leaving))
    client = pair[0].add("c")
    assert {answer.split()[0] for answer in ask(client, VIP, 80, "tcp", 3)} == {"b1"}
    publish(network, *web(leaving, endpoint(backends[1].address, "node2")))
    assert {answer.split()[0] for answer in ask(client, VIP, 80, "tcp", 10)} == {"b2"}


def test_a_restart_of_the_agent_loses_nothing(
    network: Network, processes: Processes, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    node = pair[0]
    publish(network, *web(endpoint(backends[0].address, "node1"), endpoint(backends[1].address, "node2")))
    client = node.add("c")
    talks = [processes.keep(client, protocol, VIP, 80) for protocol in ("tcp", "udp")]
    eventually(lambda: all(talk.answers for talk in talks))
    answers: list[str] = []
    done = threading.Event()

    def connect_on() -> None:
        while not done.is_set():
            answers.extend(ask(client, VIP, 80, "tcp", 20))

    thread = threading.Thread(target=connect_on)
    thread.start()
    for number in (signal.SIGKILL, signal.SIGTERM):
        node.kill(number)
        time.sleep(0.3)
        node.start()
        eventually(lambda: node.get("/v1/status")["services"]["synced"])
    done.set()
    thread.join()
    assert len(answers) >= 40
    assert {answer.split()[0] for answer in answers} == {"b1", "b2"}
    for talk in talks:
        assert len(talk.names()) == 1
        assert talk.names() <= {"b1", "b2"}


def test_udp_sockets_are_released_when_their_backend_leaves(
    network: Network, processes: Processes, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    """The backend still answers, so that nothing but the release can end the conversation."""
    publish(network, *web(endpoint(backends[0].address, "node1")))
    clients = (pair[0].add("c"), pair[1].add("d"))
    talks = [processes.keep(client, "udp", VIP, 80) for client in clients]
    direct = processes.keep(clients[0], "udp", backends[0].address, 8080)
    eventually(lambda: all(talk.answers for talk in (*talks, direct)))
    publish(network, *web(endpoint(backends[1].address, "node2")))
    for talk in talks:
        eventually(lambda talk=talk: "b2" in talk.names(), 3)
        # By which of its calls the client learns of it is a matter of luck.
        assert talk.names() - {"b1", "b2"} in ({"ConnectionAbortedError"}, {"OSError"})
    assert direct.names() == {"b1"}  # it never asked for the service


def test_udp_that_is_translated_per_packet_moves_to_another_backend_unnoticed(
    network: Network, processes: Processes, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    publish(network, *web(endpoint(backends[0].address, "node1")))
    talk = processes.keep(pair[0].add("c"), "udp", VIP, 80, in_socket=False)
    eventually(lambda: talk.answers)
    publish(network, *web(endpoint(backends[1].address, "node2")))
    eventually(lambda: "b2" in talk.names(), 3)
    assert talk.names() == {"b1", "b2"}


def test_host_ports_lead_to_the_pod_and_go_with_it(
    network: Network, processes: Processes, pair: tuple[Node, Node]
) -> None:
    node, other = pair
    mappings = [
        {"hostPort": 7080, "containerPort": 8080, "protocol": "tcp"},
        {"hostPort": 7081, "containerPort": 8080, "protocol": "udp", "hostIP": node.address},
    ]
    pod = node.add("p", runtimeConfig={"portMappings": mappings})
    for protocol in ("tcp", "udp"):
        processes.serve(pod, 8080, protocol)
    client = other.add("c")
    eventually(lambda: node.get("/v1/status")["services"]["frontends"] == 2)
    assert ask(client, node.address, 7080) == [f"p {client.address}"]
    assert ask(client, node.address, 7081, "udp") == [f"p {client.address}"]
    assert ask(other, node.address, 7080)[0].split()[0] == "p"
    assert ask(node, node.address, 7080)[0].split()[0] == "p"
    node.kill(signal.SIGKILL)
    node.start()
    eventually(lambda: node.get("/v1/status")["services"]["synced"])
    assert ask(client, node.address, 7080) == [f"p {client.address}"]
    node.delete("p")
    eventually(lambda: node.get("/v1/status")["services"]["frontends"] == 0)
    assert ask(client, node.address, 7080) == ["ConnectionRefusedError"]


def test_load_balancers_learn_which_nodes_have_endpoints(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    publish(network, *web(endpoint(backends[0].address, "node1"), **spec))
    assert health_check(pair[1], pair[0].address) == (200, 1)
    assert health_check(pair[0], pair[1].address) == (503, 0)
    publish(network, *web(endpoint(backends[1].address, "node2"), **spec))
    eventually(lambda: health_check(pair[1], pair[0].address) == (503, 0))
    publish(network, *web(endpoint(backends[1].address, "node2")))
    eventually(lambda: health_check(pair[1], pair[0].address) is None)


def health_check(client: Node, address: str) -> tuple[int, int] | None:
    """Status and number of local endpoints; None when the port is closed."""
    script = (
        "import sys, json, urllib.request as r, urllib.error as e\n"
        "try: a = r.urlopen(sys.argv[1], timeout=3)\n"
        "except e.HTTPError as x: a = x\n"
        "except e.URLError as x: print('null'); sys.exit()\n"
        "print(json.dumps([a.status, json.load(a)['localEndpoints']]))"
    )
    answer = json.loads(client.exec(sys.executable, "-c", script, f"http://{address}:32000/").stdout)
    return tuple(answer) if answer else None


def test_a_conflict_is_a_problem_of_the_younger_service(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    external = {"externalIPs": ["198.51.100.7"]}
    old = web(endpoint(backends[0].address, "node1"), **external)
    young = service("young", "10.202.0.11", port(80, 8080), **external)
    young["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z"
    publish(network, *old, young, slice_of("young", [endpoint(backends[1].address, "node2")], {"port": 8080}))
    client = pair[0].add("c")
    assert {answer.split()[0] for answer in ask(client, "198.51.100.7", 80, "tcp", 5)} == {"b1"}
    assert {answer.split()[0] for answer in ask(client, "10.202.0.11", 80, "tcp", 5)} == {"b2"}
    assert pair[0].get("/v1/status")["services"]["problems"] == 1


def test_services_and_their_new_connections_can_be_looked_at(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    node = pair[0]
    publish(
        network, *web(endpoint(backends[0].address, "node1"), endpoint("10.201.2.200", "node2", ready=False))
    )
    shown = node.get("/v1/services/default/web")
    assert [item["port"] for item in shown["frontends"]] == [80, 80]
    states = {item["address"]: item["state"] for item in shown["backends"]}
    assert states == {backends[0].address: "ready", "10.201.2.200": "not ready"}
    assert [item["name"] for item in node.get("/v1/services")["services"]] == ["web"]
    assert node.request("GET", "/v1/services/default/none")[0] == 404
    last = node.get("/v1/translations")["last"]
    ask(node.add("c"), VIP, 80)
    found = eventually(lambda: node.get(f"/v1/translations?since={last}&wait=5")["events"])
    event = found[0]
    assert (event["service"], event["protocol"]) == ("default/web:t", "TCP")
    assert (event["destination"], event["destination_port"]) == (VIP, 80)
    assert (event["new_destination"], event["new_destination_port"]) == (backends[0].address, 8080)


def test_a_pod_outside_the_control_group_is_translated_per_packet_and_shown(
    network: Network, pair: tuple[Node, Node], backends: tuple[Pod, Pod]
) -> None:
    node = pair[0]
    publish(network, *web(endpoint(backends[0].address, "node1"), endpoint(backends[1].address, "node2")))
    client = node.add("c")
    last = node.get("/v1/translations")["last"]
    done = run("ip", "netns", "exec", client.netns, sys.executable, SCRIPT, "ask", "tcp", VIP, "80", "20")
    assert set(done.stdout.splitlines()) == {f"b1 {client.address}", f"b2 {client.address}"}
    events = eventually(lambda: node.get(f"/v1/translations?since={last}&wait=5")["events"])
    assert {event["program"] for event in events} == {"from_pod"}
    assert {event["source"] for event in events} == {client.address}
