"""Uninstalling gives the default network back and leaves nothing; installing again works."""

from __future__ import annotations

import pytest

CNI = "/var/snap/microk8s/current"
PATHS = f"""
/opt/podwire /etc/podwire /var/lib/podwire /run/podwire /sys/fs/bpf/podwire /usr/local/bin/podwire
/etc/systemd/system/podwire-agent.service /run/netns/podwire-health
{CNI}/args/cni-network/05-podwire.conflist {CNI}/opt/cni/bin/podwire-cni
"""
LEFT = f"""
for path in {" ".join(PATHS.split())}; do
    [ ! -e "$path" ] || echo "$path"
done
ip -o link show | grep -o 'lxc[0-9a-f]*' || true
nft list tables | grep podwire || true
ip route show | grep -w lxc || true
"""


@pytest.fixture(scope="module")
def uninstalled(playbook):
    played = playbook("playbooks/uninstall.yml")
    assert played.status == 0, played.output
    return played


def test_nothing_of_podwire_is_left(uninstalled, on_node, lab) -> None:
    assert {node: on_node(node, LEFT) for node in lab.nodes} == dict.fromkeys(lab.nodes, "")


def test_cluster_knows_nothing_of_podwire(uninstalled, cluster) -> None:
    for kind in ("serviceaccounts", "clusterroles", "clusterrolebindings"):
        assert "podwire" not in cluster.run("get", kind, "-A", "-o", "name")
    assert "podwire.io" not in cluster.run("get", "customresourcedefinitions", "-o", "name")
    assert "podwire" not in cluster.run("get", "nodes", "-o", "jsonpath={.items[*].metadata.annotations}")


def test_policies_are_the_users_and_stay(uninstalled, cluster) -> None:
    kinds = cluster.run("get", "customresourcedefinitions", "-o", "name")
    assert "ciliumnetworkpolicies.cilium.io" in kinds
    assert "ciliumclusterwidenetworkpolicies.cilium.io" in kinds


def test_kube_proxy_serves_again(uninstalled, on_node, lab) -> None:
    for node in lab.nodes:
        assert ":KUBE-SERVICES" in on_node(node, "iptables-legacy-save -t nat")
        assert "--cleanup" not in on_node(node, f"cat {CNI}/args/kube-proxy")


def test_default_network_carries_the_pods(uninstalled, works) -> None:
    """Its bridge has an address of its own, by which pods see their node; podwire puts none on the host."""
    works(addresses=False)


def test_second_run_changes_nothing(uninstalled, playbook) -> None:
    again = playbook("playbooks/uninstall.yml")
    assert (again.status, set(again.changed.values())) == (0, {0}), again.output


def test_installs_again(uninstalled, playbook, works, on_node, lab) -> None:
    """This time pods hang on MicroK8s' own network when their node is taken over."""
    played = playbook("site.yml")
    assert played.status == 0, played.output
    works()
    rest = f"ls {CNI}/args/cni-network | grep conf; ip -o link show cni0 2>/dev/null || true"
    assert {on_node(node, rest).strip() for node in lab.nodes} == {"05-podwire.conflist"}
