"""What a user sees of the network: everything reaches everything, by the right address."""

from __future__ import annotations

testinfra_hosts = ["ansible://pod_nodes"]
CILIUM = ["ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies"]


def test_every_connection_works(works) -> None:
    """Pods, nodes, services and the world, by TCP, UDP and ICMP, in bulk; who is seen by what address."""
    matrix = works()
    assert len(matrix.flows) > 30


def test_large_packets_and_fragments_arrive_across_nodes(pods) -> None:
    first, second = pods.on("worker1")[0], pods.on("worker2")[0]
    pods.run(first, f"ping -c 3 -s 20000 -i 0.2 -W 2 {second.address}")
    pods.run(first, f"ping -c 3 -s 1472 -M do -i 0.2 -W 2 {second.address}")


def test_agent_is_a_service_that_starts_at_boot(host) -> None:
    service = host.service("podwire-agent")
    assert service.is_running
    assert service.is_enabled


def test_credentials_are_for_root_alone(host) -> None:
    for path in ("/etc/podwire/kubeconfig", "/etc/podwire/agent.yaml"):
        assert host.file(path).mode == 0o600
        assert host.file(path).user == "root"


def test_pods_hang_on_podwire_and_nothing_of_the_default_network_is_left(host) -> None:
    folder = "/var/snap/microk8s/current/args/cni-network"
    assert sorted(name for name in host.file(folder).listdir() if "conf" in name) == ["05-podwire.conflist"]
    assert not host.interface("cni0").exists


def test_programs_are_attached_and_none_is_broken(host) -> None:
    status = host.run_expect([0], "podwire datapath status -o json")
    assert '"problems": []' in status.stdout
    assert '"installed": true' in status.stdout


def test_agent_is_allowed_what_it_needs_and_no_more(cluster, lab) -> None:
    """What the rules say; MicroK8s enforces them once its addon rbac is enabled."""
    for node in lab.nodes:
        rules = cluster.read("get", "clusterrole", f"podwire-agent-{node}")["rules"]
        assert [(rule["resources"], rule["verbs"], rule.get("resourceNames")) for rule in rules] == [
            (["nodes"], ["get", "list", "watch"], None),
            (["nodes"], ["patch"], [node]),
            (["namespaces", "pods", "services"], ["list", "watch"], None),
            (["endpointslices"], ["list", "watch"], None),
            (["networkpolicies"], ["list", "watch"], None),
            (CILIUM, ["list", "watch"], None),
            ([f"{kind}/status" for kind in CILIUM], ["patch"], None),
            (["identities"], ["get", "list", "watch", "create", "patch", "delete"], None),
            (["nodeendpoints"], ["list", "watch", "create"], None),
            (["nodeendpoints"], ["patch", "delete"], [node]),
            (["events"], ["create"], None),
        ]
        account = f"system:serviceaccount:kube-system:podwire-agent-{node}"
        shown = cluster.run("get", "clusterrolebindings", "-o", "jsonpath={.items[*].subjects[*].name}")
        assert shown.split().count(account.rsplit(":", 1)[1]) == 1
