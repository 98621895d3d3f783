"""Does the network work? Real pods send real traffic; what counts is what arrives, and from which address."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import nodes, state
from lab.config import WORLD, Lab
from lab.errors import LabError
from lab.imagebuild import PROBE
from lab.process import run as run_command
from lab.progress import Progress

HTTP, UDP = 8080, 8081
SERVICE_PORTS = {"tcp": HTTP, "udp": UDP}
SERVICE = "probe"
LARGE_FILE = 16 << 20
SETTLE_SECONDS = 90


@dataclass(frozen=True)
class Flow:
    """One thing to try: from a pod or a node, to an address, over a protocol."""

    source: str  # row of the matrix
    node: str  # where the source is
    pod: str  # name of the source pod; empty when the node itself is the source
    column: str  # column of the matrix
    target: str  # what the destination is called
    address: str
    protocol: str  # tcp, udp, icmp, ssh, bulk or name
    expected: str = ""  # the source address that the destination must see
    port: int = 0  # the destination's port where it is not that of the protocol

    @property
    def name(self) -> str:
        return f"{self.source} -> {self.target} ({self.protocol})"


@dataclass
class Matrix:
    """All flows of a check with what came of each; None means the destination answered as it should."""

    flows: list[Flow] = field(default_factory=list)
    problems: dict[Flow, str] = field(default_factory=dict)

    def cell(self, source: str, column: str) -> tuple[list[str], list[str]]:
        """Protocols that worked and that did not, for a row and a column."""
        mine = [flow for flow in self.flows if (flow.source, flow.column) == (source, column)]
        good = dict.fromkeys(flow.protocol for flow in mine if flow not in self.problems)
        bad = dict.fromkeys(flow.protocol for flow in mine if flow in self.problems)
        return [name for name in good if name not in bad], list(bad)

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(flow.source for flow in self.flows))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(flow.column for flow in self.flows))

    def raise_if_broken(self, lab: Lab) -> None:
        """``LabError`` that names every flow that failed."""
        if self.problems:
            shown = "\n".join(f"  {flow.name}: {what}" for flow, what in list(self.problems.items())[:20])
            node = next(iter(self.problems)).node
            raise LabError(
                f"{len(self.problems)} of {len(self.flows)} connections do not work:\n{shown}",
                f"See `make ssh LAB={lab.name} NODE={node}`, there `podwire status` "
                "and `podwire bpf metrics list`; `make check` tries again",
                lab.state / "logs" / "checks.log",
            )


def with_server(kubeconfig: str, address: str) -> str:
    """The kubeconfig with its server at the address, same port. Pure."""
    return re.sub(r"(server: https://)[^:/\s]+", rf"\g<1>{address}", kubeconfig)


@dataclass(frozen=True)
class Service:
    """The service in front of all probe pods: its name in DNS, its address, its node ports by protocol."""

    name: str
    address: str
    node_ports: Mapping[str, int]


def flows(lab: Lab, pods: Mapping[str, Mapping[str, str]], service: Service) -> list[Flow]:
    """What to try. ``pods`` maps a node to its two pods and their addresses. Pure."""
    wanted: list[Flow] = []

    def add(source: tuple[str, str, str], column: str, target: str, address: str, **expected: str) -> None:
        for protocol, seen in expected.items():
            wanted.append(Flow(*source, column, target, address, protocol, seen))

    def add_node_ports(source: tuple[str, str, str]) -> None:
        for node in lab.nodes:
            for protocol, port in service.node_ports.items():
                target = f"node port of {node}"
                wanted.append(Flow(*source, "node port", target, lab.address(node), protocol, "", port))

    for node in lab.nodes:
        (first, own), (second, beside) = list(pods[node].items())[:2]
        pod = (f"pod on {node}", node, first)
        add(pod, "pod, same node", f"{second} on {node}", beside, tcp=own, udp=own, icmp="")
        add(pod, "own node", node, lab.address(node), ssh="", icmp="")
        for other in lab.nodes:
            if other != node:
                name, address = next(iter(pods[other].items()))
                add(pod, "pod, other node", f"{name} on {other}", address, tcp=own, udp=own, icmp="")
                add(pod, "other node", other, lab.address(other), ssh="", icmp="")
        # The world has no route to pods: only masqueraded traffic gets an answer.
        outside = lab.address(node)
        world = lab.address(WORLD)
        add(pod, "world", "the world", world, tcp=outside, udp=outside, icmp="", bulk="")
        add(pod, "service", "service", service.address, tcp="", udp="")
        add(pod, "service", service.name, service.name, name="")
        add_node_ports(pod)
        host = (node, node, "")
        add(host, "service", "service", service.address, tcp="", udp="")
        add_node_ports(host)
        for name, address in pods[node].items():
            add(host, "pod, same node", f"{name} on {node}", address, tcp=outside, udp=outside, icmp="")
        for other in lab.nodes:
            if other != node:
                name, address = next(iter(pods[other].items()))
                add(host, "pod, other node", f"{name} on {other}", address, tcp=outside, udp=outside, icmp="")
    add_node_ports(("the world", WORLD, ""))
    return wanted


def command(flow: Flow) -> str:
    """Shell command that prints what the destination answered, or nothing. Pure.

    nc is called by its path: busybox' timeout would run its own nc, which knows no UDP.
    """
    address = flow.address
    port = flow.port or SERVICE_PORTS.get(flow.protocol, HTTP)
    return {
        "tcp": f"curl -s -m 5 http://{address}:{port}/cgi-bin/address",
        # A resolver asks again after five seconds: one lost datagram is no lost name.
        "name": f"curl -s -m 12 http://{address}:{port}/cgi-bin/address",
        "bulk": f"curl -s -m 20 -o /dev/null -w '%{{size_download}}' http://{address}:{HTTP}/16m",
        # -W 1: done when the answer is there
        "udp": f"echo ask | timeout 5 /bin/nc -u -W 1 -w 4 {address} {port}",
        "icmp": f"ping -c 1 -W 3 {address} >/dev/null && echo answered",
        "ssh": f"timeout 5 /bin/nc {address} 22 </dev/null | head -c 4",
    }[flow.protocol]


def script(flows_of_source: Sequence[Flow], tries: int = 1) -> str:
    """Shell script that does all flows of a source at once and prints NUMBER=ANSWER for each. Pure."""
    parts = []
    for number, flow in enumerate(flows_of_source):
        parts.append(
            f"( n=0; while :; do out=$({command(flow)} 2>/dev/null | tr -d '\\r\\n'); n=$((n+1)); "
            f'[ -n "$out" ] || [ $n -ge {tries} ] && break; sleep 1; done; echo "{number}=$out" ) &'
        )
    return "\n".join([*parts, "wait"])


def judge(flow: Flow, answer: str) -> str:
    """What is wrong with an answer; empty when it is as it should be. Pure."""
    if not answer:
        return f"no answer from {flow.address}"
    if flow.protocol == "bulk" and answer != str(LARGE_FILE):
        return f"{answer} of {LARGE_FILE} bytes arrived"
    if flow.protocol == "ssh" and answer != "SSH-":
        return f"{flow.address} answered {answer!r} instead of an ssh greeting"
    if flow.expected and answer != flow.expected:
        return f"{flow.target} saw {answer} instead of {flow.expected}"
    return ""


def manifest(namespace: str) -> list[dict[str, Any]]:
    """Two probe pods on every node and a service in front of them. Pure."""
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": namespace},
            "spec": {
                "type": "NodePort",
                "selector": {"podwire-check": "probe"},
                "ports": [
                    {"name": name, "port": port, "protocol": name.upper()}
                    for name, port in SERVICE_PORTS.items()
                ],
            },
        },
    ]
    for name in ("probe-a", "probe-b"):
        labels = {"podwire-check": "probe", "app": name}
        container = {"name": "probe", "image": PROBE, "imagePullPolicy": "IfNotPresent"}
        objects.append(
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "selector": {"matchLabels": {"app": name}},
                    "updateStrategy": {"type": "RollingUpdate"},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {
                            "terminationGracePeriodSeconds": 1,
                            "tolerations": [{"operator": "Exists"}],
                            "containers": [container],
                        },
                    },
                },
            }
        )
    return objects


class Cluster:
    """kubectl against the lab's cluster."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        binary = state.read(lab.name).get("artifacts", {}).get("kubernetes", "")
        self.binary = Path(binary, "kubectl") if binary else Path("kubectl")

    def run(self, *words: str, stdin: str | None = None, check: bool = True, timeout: float = 120) -> str:
        """Output of a kubectl command."""
        kubeconfig = self.lab.state / "kubeconfig"
        return run_command(
            [self.binary, f"--kubeconfig={kubeconfig}", "--request-timeout=60s", *words],
            what=f"kubectl {' '.join(words[:3])}",
            hint=f"See `kubectl --kubeconfig {kubeconfig} get nodes,pods -A`",
            stdin=stdin,
            check=check,
            timeout=timeout,
        ).stdout

    def read(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json"))


def run(lab: Lab, progress: Progress) -> Matrix:
    """Deploy probes, try every flow, remove the probes. The result says what worked."""
    cluster = Cluster(lab)
    namespace = f"podwire-check-{secrets.token_hex(2)}"
    with progress.step("probe pods", log_name="checks") as step:
        objects = {"apiVersion": "v1", "kind": "List", "items": manifest(namespace)}
        cluster.run("apply", "-f", "-", stdin=json.dumps(objects))
        try:
            pods = wait_for_pods(cluster, namespace, step.log)
            service = read_service(cluster, namespace)
        except BaseException:
            cluster.run("delete", "namespace", namespace, "--wait=false", check=False)
            raise
    with progress.step("connectivity") as step:
        try:
            wanted = flows(lab, pods, service)
            matrix = Matrix(flows=wanted)
            groups = _by_source(wanted)
            with ThreadPoolExecutor(4) as pool:
                for answers in pool.map(lambda group: _try(cluster, namespace, group), groups):
                    for flow, answer in answers.items():
                        problem = judge(flow, answer)
                        step.log(f"{flow.name}: {problem or 'ok ' + answer}")
                        if problem:
                            matrix.problems[flow] = problem
            step.result = f"{len(wanted) - len(matrix.problems)} of {len(wanted)} connections work"
        finally:
            cluster.run("delete", "namespace", namespace, "--wait=false", check=False)
    return matrix


def read_service(cluster: Cluster, namespace: str) -> Service:
    """The probes' service as the cluster has it."""
    spec = cluster.read("-n", namespace, "get", "service", SERVICE)["spec"]
    ports = {port["name"]: port["nodePort"] for port in spec["ports"]}
    return Service(f"{SERVICE}.{namespace}.svc.cluster.local", spec["clusterIP"], ports)


def _by_source(wanted: Iterable[Flow]) -> list[list[Flow]]:
    groups: dict[str, list[Flow]] = {}
    for flow in wanted:
        groups.setdefault(flow.source, []).append(flow)
    return list(groups.values())


def _try(cluster: Cluster, namespace: str, group: list[Flow]) -> dict[Flow, str]:
    text = script(group)
    first = group[0]
    if first.node == WORLD:
        world = cluster.lab.container(WORLD)
        output = run_command(["podman", "exec", world, "sh", "-c", text], check=False, timeout=90).stdout
    elif first.pod:
        output = cluster.run(
            "-n", namespace, "exec", first.pod, "--", "/bin/sh", "-c", text, check=False, timeout=90
        )
    else:
        quoted = f"sh -c {shlex.quote(text)}"
        output = nodes.ssh(cluster.lab, first.node, [quoted], check=False, timeout=90).stdout
    answers = dict(line.split("=", 1) for line in output.splitlines() if re.match(r"\d+=", line))
    return {flow: answers.get(str(number), "") for number, flow in enumerate(group)}


def wait_for_pods(cluster: Cluster, namespace: str, log: Any) -> dict[str, dict[str, str]]:
    """Addresses of the probe pods by node, when all run, serve, and the service leads to them."""
    deadline = time.monotonic() + SETTLE_SECONDS
    names = cluster.lab.nodes
    missing = ""
    while True:
        found: dict[str, dict[str, str]] = {node: {} for node in names}
        items = cluster.read("-n", namespace, "get", "pods")["items"]
        for pod in sorted(items, key=lambda item: item["metadata"]["name"]):
            status = pod["status"]
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
            if ready and status.get("podIP"):
                found.setdefault(pod["spec"]["nodeName"], {})[pod["metadata"]["name"]] = status["podIP"]
        missing = ", ".join(node for node in names if len(found[node]) < 2)
        if not missing:
            break
        log(f"waiting for probe pods on {missing}")
        if time.monotonic() > deadline:
            raise LabError(
                f"probe pods do not start on {missing} within {SETTLE_SECONDS} s\n"
                + _events(cluster, namespace),
                f"See `kubectl --kubeconfig {cluster.lab.state / 'kubeconfig'} get pods,events -A`",
            )
        time.sleep(0.5)
    service = read_service(cluster, namespace)
    # Servers inside the pods start after the pods, service rules after the endpoints: wait for those, and for
    # nothing else. Then every first try counts.
    settled = (
        "n=0; until curl -s -m 1 http://127.0.0.1:8080/name >/dev/null && "
        "echo x | timeout 2 /bin/nc -u -W 1 -w 1 127.0.0.1 8081 | grep -q . && "
        f"curl -s -m 1 http://{service.address}:{HTTP}/name >/dev/null; "
        "do n=$((n+1)); [ $n -lt 20 ] || exit 1; sleep 0.5; done"
    )
    log("waiting for servers and service rules")
    everyone = [pod for node in names for pod in found[node]]
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda pod: cluster.run(
                    "-n", namespace, "exec", pod, "--", "/bin/sh", "-c", settled, check=False, timeout=90
                ),
                everyone,
            )
        )
    return found


def _events(cluster: Cluster, namespace: str) -> str:
    words = ("-n", namespace, "get", "events", "--field-selector=type=Warning", "-o")
    columns = "custom-columns=:.involvedObject.name,:.reason,:.message"
    lines = cluster.run(*words, columns, "--no-headers", check=False).splitlines()
    return "\n".join(f"  {line}" for line in lines[-10:])
