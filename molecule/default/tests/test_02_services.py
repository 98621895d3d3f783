"""Services without kube-proxy. That they lead to pods from everywhere, and by name, is in test_01."""

from __future__ import annotations

import json

import pytest

from lab import checks
from lab.config import WORLD
from lab.process import run as run_command
from tests.e2e.support import NAMESPACE, eventually

ARGS = "/var/snap/microk8s/current/args/kube-proxy"
CHAINS = "iptables-legacy-save 2>/dev/null; iptables-nft-save; nft list tables"
KUBE_PROXY = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-SVC-", "KUBE-SEP-", "KUBE-PROXY-", "ip kube-proxy")
# curl's exit status for a connection that was refused; 28 would be silence for the two seconds it waits.
REFUSED = "7"
EMPTY = "nobody"


def of_kube_proxy(on_node, node: str) -> list[str]:
    shown = on_node(node, CHAINS)
    return [name for name in KUBE_PROXY if name in shown]


def test_nothing_of_kube_proxy_is_left(lab, on_node) -> None:
    assert {node: of_kube_proxy(on_node, node) for node in lab.nodes} == {node: [] for node in lab.nodes}


def test_kubelite_goes_on_without_it(lab, on_node, kubelite_restarts) -> None:
    """kube-proxy cleans up and returns; that must not end the process that it is a part of."""
    for node in lab.nodes:
        assert "--cleanup=true" in on_node(node, f"cat {ARGS}").split()
        # If kubelet 1.20 made its chains then, the two would disturb each other, and kubelite would restart.
        shown = on_node(node, "systemctl show -p ActiveState,NRestarts snap.microk8s.daemon-kubelite").split()
        assert "ActiveState=active" in shown
        # A slow disk may cost a controller its lease, and kubelite one restart, while a cluster comes up.
        assert kubelite_restarts[node] <= 1
        assert f"NRestarts={kubelite_restarts[node]}" in shown, f"{node}: {shown}"


def test_api_is_reached_without_a_service(lab, on_node) -> None:
    for node in lab.nodes:
        assert "server: https://127.0.0.1:16443" in on_node(node, "tr -d '\"' </etc/podwire/kubeconfig")
        # Who does not know the API's credentials is refused by it, not by the network.
        code = on_node(node, "curl -sk -o /dev/null -w '%{http_code}' https://127.0.0.1:16443/readyz")
        assert code in ("200", "401")


def test_api_is_reached_by_its_service(lab, pods, on_node) -> None:
    shown = "curl -sk -m 5 -o /dev/null -w '%{http_code}' https://10.152.183.1/readyz"
    for node in lab.nodes:
        assert on_node(node, shown) in ("200", "401")
        assert pods.run(pods.on(node)[0], shown) in ("200", "401")


@pytest.fixture
def service_of_nobody(cluster, pods):
    """A service with a node port that no pod backs."""
    spec = {"type": "NodePort", "selector": {"app": "nobody"}, "ports": [{"name": "tcp", "port": 80}]}
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": EMPTY}, "spec": spec}
    cluster.run("-n", NAMESPACE, "apply", "-f", "-", stdin=json.dumps(made))
    yield cluster.read("-n", NAMESPACE, "get", "service", EMPTY)["spec"]
    cluster.run("-n", NAMESPACE, "delete", "service", EMPTY)


def test_service_without_endpoints_refuses_at_once(lab, pods, on_node, service_of_nobody) -> None:
    port = service_of_nobody["ports"][0]["nodePort"]
    address = service_of_nobody["clusterIP"]
    pod = pods.on("worker1")[0]

    def ask(url: str) -> str:
        return f"curl -s -m 2 {url}; echo $?"

    def refused() -> bool:
        return pods.run(pod, ask(f"http://{address}")).strip() == REFUSED

    eventually(refused, "the service is known")
    node_port = f"http://{lab.address('cp1')}:{port}"
    assert pods.run(pod, ask(node_port)).strip() == REFUSED
    assert on_node("worker1", ask(f"http://{address}")).strip() == REFUSED
    assert on_node("worker1", ask(node_port)).strip() == REFUSED
    world = ["podman", "exec", lab.container(WORLD), "sh", "-c", ask(node_port)]
    assert run_command(world).stdout.strip() == REFUSED


def test_clients_outside_are_spread_over_backends(lab, pods, cluster) -> None:
    service = checks.read_service(cluster, NAMESPACE)
    names = (
        f"for i in $(seq 40); do "
        f"curl -s -m 5 http://{lab.address('worker1')}:{service.node_ports['tcp']}/name; done"
    )
    shown = run_command(["podman", "exec", lab.container(WORLD), "sh", "-c", names]).stdout.split()
    assert len(shown) == 40
    assert len(set(shown)) > 2


def test_agents_know_the_services(lab, agent) -> None:
    for node in lab.nodes:
        known = agent(node, "/v1/services")
        assert known["enabled"]
        listed = {(item["namespace"], item["name"]): item for item in known["services"]}
        assert listed["default", "kubernetes"]["problems"] == []
        assert listed["kube-system", "kube-dns"]["frontends"]


def test_off_and_on_again_by_the_variable(playbook, on_node, works) -> None:
    """Back to kube-proxy and from it, on a node in use: services work in between, there and elsewhere."""
    off = playbook("site.yml", "--limit", "worker1", "-e", "podwire_kube_proxy_replacement=false")
    assert off.status == 0, off.output
    assert "KUBE-SERVICES" in of_kube_proxy(on_node, "worker1")
    assert "--cleanup" not in on_node("worker1", f"cat {ARGS}")
    works()
    on = playbook("site.yml", "--limit", "worker1")
    assert on.status == 0, on.output
    assert not of_kube_proxy(on_node, "worker1")
    works()
